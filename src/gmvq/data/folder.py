"""A folder of image files, nested as deep as you like, or one image file."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmvq.data.decode import decode, header_problem
from gmvq.data.source import SPLIT_ALIASES, Framing, hash_split
from gmvq.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageFiles:
    """Image files, decoded when asked for."""

    framing: Framing = "crop"

    def __init__(
        self,
        root: Path,
        files: list[str],
        labels: list[int] | None,
        channels: int,
        description: str,
        skipped: list[tuple[str, str]],
    ) -> None:
        self.description = description
        self.skipped = skipped
        self._root = root
        self._files = files
        self._labels = labels
        self._channels = channels

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> Image:
        return decode(self._root / self._files[index], self._channels)

    def stack(self, indices: NDArray[np.int64]) -> None:
        return None

    def name(self, index: int) -> str:
        return self._files[index]

    def label(self, index: int) -> int | None:
        return None if self._labels is None else self._labels[index]


def open_image(path: Path, channels: int) -> ImageFiles:
    """Open one image file: the only item of every split."""
    problem = header_problem(path)
    if problem is not None:
        raise ValueError(
            f"cannot use {path}: {problem}; give an image, a folder of images, an .npy, .npz, .parquet, .ttf "
            "or IDX file"
        )
    return ImageFiles(
        path.parent, [path.name], None, channels, f"{path.name} (one image, in every split)", []
    )


def open_folder(root: Path, split: str, channels: int, fractions: tuple[float, float]) -> ImageFiles:
    """Open one split of a folder of images.

    Where the folder has a subfolder train/, its subfolders train, val (validation, valid) and test are the
    splits, and one that is missing is taken out of train; otherwise each file goes by a fixed hash of its
    path. If every image lies in a subfolder, the name of that subfolder is its class.

    Raises:
        ValueError: there is no image to read, or too few for the splits; the message lists what was found.
    """
    inner = split_folders(root)
    home = split if split in inner else "train"
    bases = inner.get(home, [""])
    files, skipped = _readable(root, bases)
    if not files:
        raise ValueError(f"no readable image in {root / bases[0]}: found {listing(skipped)}")
    classes, labels = _classes(root, [name for names in inner.values() for name in names] or [""], files)
    rows, rule = split_rows_of_folder(files, split, inner, fractions)
    chosen = [labels[i] for i in rows] if labels is not None else None
    kinds = f", {len(classes)} classes" if labels is not None else ""
    description = f"{root.name} ({split}; {rule}{kinds})"
    return ImageFiles(root, [files[i] for i in rows], chosen, channels, description, skipped)


def split_folders(root: Path) -> dict[str, list[str]]:
    """The subfolders of a folder that are splits, by the split's name; empty where there is none for train."""
    inner: dict[str, list[str]] = {}
    for child in sorted(root.iterdir()):
        if child.is_dir() and child.name.lower() in SPLIT_ALIASES:
            inner.setdefault(SPLIT_ALIASES[child.name.lower()], []).append(child.name)
    return inner if "train" in inner else {}


def split_rows_of_folder(
    files: list[str],
    split: str,
    inner: dict[str, list[str]],
    fractions: tuple[float, float],
    what: str = "images",
) -> tuple[NDArray[np.int64], str]:
    """Which of the files of a split's subfolder, or of train where it has none, belong to it; and the rule in words.

    Args:
        files: those below the split's subfolder, relative to the folder.
        split: the one asked for.
        inner: of ``split_folders``.
        fractions: the shares of validation and test, used only for those that have no subfolder.
        what: the files are, for the error.
    """
    home = split if split in inner else "train"
    rule = f"folder {home}/" if inner else "split by a fixed hash of the path"
    validation, test = (
        0.0 if name in inner else share for name, share in zip(("validation", "test"), fractions, strict=True)
    )
    if home != "train" or (split == "train" and validation == test == 0):
        return np.arange(len(files)), rule
    rows = hash_split(files, split, (validation, test), what)
    divided = f", {validation:.0%} of it validation, {test:.0%} test" if validation or test else ""
    return rows, rule + divided


def _readable(root: Path, bases: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """List the files below some subfolders of root, sorted, as (readable, skipped with the reason)."""
    suffixes = require("PIL.Image", "data").registered_extensions()
    files: list[str] = []
    skipped: list[tuple[str, str]] = []
    for base in bases:
        for folder, inner, names in os.walk(root / base):
            inner[:] = [name for name in inner if not name.startswith((".", "__MACOSX"))]
            for name in names:
                path = Path(folder, name)
                if name.startswith("."):
                    continue
                known = not path.suffix or path.suffix.lower() in suffixes
                problem = header_problem(path) if known else f"not an image format: {path.suffix}"
                relative = path.relative_to(root).as_posix()
                if problem is None:
                    files.append(relative)
                else:
                    skipped.append((relative, problem))
    return sorted(files), sorted(skipped)


def _classes(root: Path, bases: list[str], files: list[str]) -> tuple[list[str], list[int] | None]:
    """Return the class names, the same for every split, and each file's class, if there are classes."""
    depth = 0 if bases == [""] else 1
    parts = [Path(file).parts[depth:] for file in files]
    if any(len(part) < 2 for part in parts):
        return [], None
    folders = {child.name for base in bases for child in (root / base).iterdir() if child.is_dir()}
    classes = sorted(folders & {part[0] for part in parts} if depth == 0 else folders)
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[part[0]] for part in parts]


def listing(skipped: list[tuple[str, str]]) -> str:
    """Sum up the files of a folder that has no image: how many for each reason, and a few names."""
    if not skipped:
        return "no file at all; give a folder that holds images"
    reasons = Counter(problem for _, problem in skipped)
    counts = ", ".join(f"{count} x {problem}" for problem, count in reasons.most_common(5))
    names = ", ".join(name for name, _ in skipped[:5])
    return f"{len(skipped)} files ({counts}), such as {names}"

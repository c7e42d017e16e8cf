"""What lies in a folder, the part of it that is a split, and folders of image files.

Our own in place of the folder readers of ``datasets``: those leave out linked folders and files without a suffix in
silence, let in broken files and PostScript, and drop all classes when one file lies outside of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ..errors import as_value_error
from .decode import UnreadableImageError, decode, header_shape, image_suffixes
from .pictures import Pictures
from .skipping import LISTED_ALREADY, OTHER_KIND
from .splits import SPLIT_ALIASES, NoSuchSplitError, Wanted, choose_split

if TYPE_CHECKING:
    from PIL.Image import Image

Header = TypeVar("Header")


class Listing(NamedTuple):
    """Files by their path below a folder, sorted, and what is not used, with the reason."""

    files: list[str]
    skipped: list[tuple[str, str]]


def walk(root: Path) -> Listing:
    """List a folder, however deep.

    Hidden names (and __MACOSX) are left out. Links to files and folders are followed; one to a folder that is listed
    already, such as one above it, is reported. FIFOs, sockets and devices are reported and never opened.
    """
    files: list[str] = []
    skipped: list[tuple[str, str]] = []
    folders, links, seen = [""], [], set[tuple[int, int]]()
    while folders or links:
        # Real folders come first, so that the link is what is left out where two names lead to one folder.
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(root / folder)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            skipped.append((folder, f"the folder cannot be listed: {error.strerror}"))
            continue
        if (status.st_dev, status.st_ino) in seen:
            skipped.append((folder, LISTED_ALREADY))
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(name)
                elif entry.is_file():
                    files.append(name)
                else:
                    dangling = entry.is_symlink() and not (root / name).exists()
                    skipped.append(
                        (name, "a link to nothing" if dangling else "a FIFO, socket or device: not opened")
                    )
            except OSError as error:
                skipped.append((name, f"cannot be looked at: {error.strerror}"))
    return Listing(sorted(files), sorted(skipped))


def split_folders(root: Path) -> dict[str, list[str]]:
    """The subfolders of a folder that are splits, by the split's name; empty where there is none for train."""
    inner: dict[str, list[str]] = {}
    for child in sorted(root.iterdir()):
        if child.is_dir() and child.name.lower() in SPLIT_ALIASES:
            inner.setdefault(SPLIT_ALIASES[child.name.lower()], []).append(child.name)
    return inner if "train" in inner else {}


def readable_files(
    root: Path, listing: Listing, split: str, check: Callable[[Path], Header], what: str
) -> tuple[dict[str, Header], dict[str, list[str]], list[tuple[str, str]]]:
    """Find the files of a folder that can be read, in the part of it that a split is taken from.

    Where the folder has a subfolder train/, its subfolders train, val (validation, valid) and test are the splits, and
    one that is missing is taken out of train; otherwise each file goes by a fixed hash of its path. ``check`` says what
    is kept of a file, or raises ValueError or OSError.

    Returns:
        The readable files with what ``check`` says; the same as keys for ``choose_split``; what is skipped.
    """
    inner = split_folders(root)
    home = split if split in inner else "train"
    tops = inner.get(home)
    good: dict[str, Header] = {}
    skipped = [one for one in listing.skipped if tops is None or one[0].split("/")[0] in tops]
    for name in listing.files:
        if tops is not None and name.split("/")[0] not in tops:
            continue
        try:
            good[name] = check(root / name)
        except (ValueError, OSError) as error:
            skipped.append((name, str(error)))
    if not good:
        place = root / tops[0] if tops else root
        raise ValueError(f"no readable {what} in {place}: found {summary(skipped)}")
    return good, {**{name: [] for name in inner}, home: list(good)}, sorted(skipped)


def summary(skipped: Sequence[tuple[str, str]]) -> str:
    """Sum up what lies in a folder that holds nothing of use: how much for each reason, and a few names."""
    if not skipped:
        return "no file at all; give a folder that holds data"
    reasons = Counter(problem for _, problem in skipped)
    counts = ", ".join(f"{count} x {problem}" for problem, count in reasons.most_common(5))
    return f"{len(skipped)} files ({counts}), such as {', '.join(name for name, _ in skipped[:5])}"


def open_folder(root: Path, listing: Listing, wanted: Wanted) -> Pictures:
    """Open one split of a folder of images; if every image lies in a subfolder, its name is the image's class."""
    good, keys, skipped = readable_files(root, listing, wanted.split, _check_image, "image")
    try:
        _, rows, rule = choose_split(keys, wanted)
    except ValueError as error:
        if isinstance(error, NoSuchSplitError) or not skipped:
            raise
        raise ValueError(f"{error}. Skipped in {root}: {summary(skipped)}") from error
    files = list(good)
    classes, labels = _classes(root, files)
    kinds = "" if labels is None else f", {len(classes)} classes"
    description = f"{root.name} ({wanted.split}; {rule}{kinds})"
    return Pictures(
        partial(read_file, root, files, wanted.channels),
        rows,
        files,
        description,
        labels,
        skipped=skipped,
        all_shapes=np.array(list(good.values()), dtype=np.int64),
    )


def open_image(path: Path, wanted: Wanted) -> Pictures:
    """Open one image file: the only item of every split."""
    advice = "give an image, a folder of images, an .npy, .npz, .parquet, .ttf or IDX file"
    with as_value_error(f"cannot use {path}", UnreadableImageError, advice=advice):
        shape = header_shape(path)
    read = partial(read_file, path.parent, [path.name], wanted.channels)
    title = f"{path.name} (one image, in every split)"
    return Pictures(read, np.arange(1), [path.name], title, all_shapes=np.array([shape], dtype=np.int64))


def read_file(root: Path, files: list[str], channels: int, row: int, reduce: int = 1) -> Image:
    return decode(root / files[row], channels, reduce)


def _check_image(path: Path) -> tuple[int, int]:
    if path.suffix and path.suffix.lower() not in image_suffixes():
        raise UnreadableImageError(f"{OTHER_KIND}: {path.suffix}")
    return header_shape(path)


def _classes(root: Path, files: list[str]) -> tuple[list[str], list[int] | None]:
    """Return the class names, the same for every split, and each file's class, if there are classes."""
    bases = [root / name for names in split_folders(root).values() for name in names]
    parts = [file.split("/")[1 if bases else 0 :] for file in files]
    if any(len(part) < 2 for part in parts):
        return [], None
    folders = {child.name for base in bases for child in base.iterdir() if child.is_dir()}
    classes = sorted(folders | {part[0] for part in parts})
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[part[0]] for part in parts]

"""Which items of a set belong to a split: its own division, a fixed hash of names, or, for one signal, time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import check_choice, check_positive
from .randomness import fraction_of

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}


class NoSuchSplitError(ValueError):
    """A set does not come with the split asked for, and none is taken out of its train split."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a set of images or signals, as ``open_images`` and ``open_signals`` explain it."""

    split: str
    size: int
    channels: int
    column: str | None = None
    fractions: tuple[float, float] = (0.1, 0.1)
    limits: tuple[float, float] | None = None
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        check_choice("split", self.split, SPLITS)
        check_positive("size", self.size)
        check_positive("channels", self.channels)
        validation, test = self.fractions
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise ValueError(
                "split_fractions are the shares of validation and test: not negative, in sum below 1; got "
                f"{self.fractions}"
            )


def choose_split(
    keys: Mapping[str, Sequence[object]], wanted: Wanted, what: str = "images"
) -> tuple[str, NDArray[np.int64], str]:
    """Find a split among those that a set comes with, or take the missing one out of its train split.

    Items are drawn by the hash of their key and not from the end, as many sets are sorted by class. ``keys`` has one
    for each item of every split that exists; a set that is not divided is all "train".

    Returns:
        The split to read, the positions in it that belong to the one asked for, and the rule in words.
    """
    split = wanted.split
    if split != "train" and split in keys:
        return split, np.arange(len(keys[split])), "its own split"
    if "train" not in keys:
        raise NoSuchSplitError(
            f"there is no split 'train' to take {split!r} from; there is: {', '.join(keys) or 'nothing'}"
        )
    validation, test = wanted.fractions
    shares = (0.0 if "validation" in keys else validation, 0.0 if "test" in keys else test)
    taken = [f"{share:.0%} {name}" for name, share in zip(SPLITS[1:], shares, strict=True) if share > 0]
    start = "its own split" if len(keys) > 1 else "all"
    rule = f"split by a fixed hash, {', '.join(taken)}" if taken else start
    if split == "train" and not taken:
        return "train", np.arange(len(keys["train"])), rule
    return "train", hash_split([str(key) for key in keys["train"]], split, shares, what), rule


def files_by_split(path: Path, files: Sequence[str]) -> dict[str, list[Path]]:
    """The files of a folder, or ``path`` itself without any, by the split in their names, or else in their folders'.

    They come in the order of their folders, on which the rows of the splits depend; without such a name, all is train.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: file.split("/")):
        words = (word for part in reversed(file.split("/")) for word in re.split(r"[^a-z]+", part.lower()))
        split = next((SPLIT_ALIASES[word] for word in words if word in SPLIT_ALIASES), "train")
        found.setdefault(split, []).append(path / file)
    return found if files else {"train": [path]}


def hash_split(
    keys: Sequence[str], split: str, fractions: tuple[float, float], what: str = "images"
) -> NDArray[np.int64]:
    """Return the positions of the items that fall into ``split``, by a fixed hash of each item's key.

    Items with equal keys stay together, and adding items never moves old ones (but for sets so small that a
    split would be empty: it is then given one key of the largest split).
    """
    validation, test = fractions
    wanted = _splits_with_share(split, fractions)
    members: dict[str, list[str]] = {name: [] for name in SPLITS}
    place = {key: fraction_of(key) for key in set(keys)}
    for key in sorted(place, key=lambda key: (place[key], key)):
        value = place[key]
        members["test" if value < test else "validation" if value < test + validation else "train"].append(
            key
        )
    if len(place) < len(wanted):
        raise ValueError(
            f"{len(place)} {what} cannot be divided into {', '.join(wanted)}: {len(wanted)} are the least; add {what}, "
            "or take them all: split='train', split_fractions=(0, 0); in gmvq evaluate and inspect --split all"
        )
    for name in wanted:
        if not members[name]:
            members[name].append(max(members.values(), key=len).pop())
    chosen = set(members[split])
    return np.array([i for i, key in enumerate(keys) if key in chosen], dtype=np.int64)


def time_block(length: int, split: str, fractions: tuple[float, float]) -> tuple[int, int, str]:
    """Return the part of one signal that is ``split``: its first sample, the one behind its last, the rule in words.

    Train comes first, then validation, then test: what is measured lies after what was learned from.
    """
    _splits_with_share(split, fractions)
    test = length - round(fractions[1] * length)
    validation = test - round(fractions[0] * length)
    begin, end = {"train": (0, validation), "validation": (validation, test), "test": (test, length)}[split]
    if begin == end:
        raise ValueError(
            f"{length} samples cannot be divided in time: {split!r} would be empty; give a longer signal"
        )
    shares = f"the last {fractions[0]:.0%} and {fractions[1]:.0%} validation, test"
    return begin, end, f"one signal, divided in time: {shares}" if any(fractions) else "one signal, whole"


def _splits_with_share(split: str, fractions: tuple[float, float]) -> list[str]:
    """The splits that are not empty; ValueError if ``split`` is none of them."""
    validation, test = fractions
    shares = dict(zip(SPLITS, (1.0 - validation - test, validation, test), strict=True))
    wanted = [name for name in SPLITS if shares[name] > 0]
    if split not in wanted:
        raise NoSuchSplitError(
            f"split {split!r} is empty: its share is 0 (split_fractions={fractions}); "
            "raise its share, or use a set that has such a split"
        )
    return wanted

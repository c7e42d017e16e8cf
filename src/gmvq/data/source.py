"""What every kind of data offers to the dataset (`Source`), and how items are divided into splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gmvq.data.randomness import fraction_of

if TYPE_CHECKING:
    from PIL.Image import Image

Framing = Literal["tiles", "crop", "whole"]
"""How pictures become squares: cut into tiles (large photographs), scaled and cropped, or always whole."""

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "t10k": "test",
}


class Source(Protocol):
    """A numbered collection of pictures with the channels already as asked; no randomness, no cropping."""

    framing: Framing
    description: str
    skipped: list[tuple[str, str]]

    def __len__(self) -> int: ...

    def image(self, index: int) -> NDArray[np.uint8] | Image:
        """The picture: uint8 of shape (H, W, C), or PIL in mode L or RGB."""
        ...

    def stack(self, indices: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Many pictures at once, a new uint8 array (B, H, W, C); None where they lie encoded."""
        ...

    def name(self, index: int) -> str: ...

    def label(self, index: int) -> int | None: ...


def hash_split(
    keys: Sequence[str], split: str, fractions: tuple[float, float], what: str = "images"
) -> NDArray[np.int64]:
    """Return the positions of the items that fall into ``split``, by a fixed hash of each item's key.

    Items with equal keys stay together, and adding items never moves old ones (but for sets so small that a
    split would be empty: it is then given one key of the largest split).

    Args:
        keys: one name per item.
        split: "train", "validation" or "test".
        fractions: the shares of validation and test.
        what: the items are, for the error.

    Raises:
        ValueError: the split has the share 0, or there are fewer keys than splits.
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
            f"{len(place)} {what} cannot be divided into {', '.join(wanted)}; add {what}, "
            "or take them all: split='train', split_fractions=(0, 0); in gmvq evaluate and inspect --split all"
        )
    for name in wanted:
        if not members[name]:
            members[name].append(max(members.values(), key=len).pop())
    chosen = set(members[split])
    return np.array([i for i, key in enumerate(keys) if key in chosen], dtype=np.int64)


def time_block(length: int, split: str, fractions: tuple[float, float]) -> tuple[tuple[int, int], str]:
    """Return the part of a single signal that is ``split``, first and behind the last sample, and the rule in words.

    Train comes first, then validation, then test: what is measured lies after what was learned from.

    Raises:
        ValueError: the split has the share 0, or would have no sample.
    """
    _splits_with_share(split, fractions)
    test = length - round(fractions[1] * length)
    validation = test - round(fractions[0] * length)
    begin, end = {"train": (0, validation), "validation": (validation, test), "test": (test, length)}[split]
    if begin == end:
        raise ValueError(
            f"{length} samples cannot be divided in time: {split!r} would be empty; give a longer signal"
        )
    if fractions == (0.0, 0.0):
        return (begin, end), "one signal, whole"
    return (
        begin,
        end,
    ), f"one signal, divided in time: the last {fractions[0]:.0%} and {fractions[1]:.0%} validation, test"


def _splits_with_share(split: str, fractions: tuple[float, float]) -> list[str]:
    """The splits that are not empty; ValueError if ``split`` is none of them."""
    validation, test = fractions
    shares = dict(zip(SPLITS, (1.0 - validation - test, validation, test), strict=True))
    wanted = [name for name in SPLITS if shares[name] > 0]
    if split not in wanted:
        raise ValueError(
            f"split {split!r} is empty: its share is 0 (split_fractions={fractions}); "
            "raise its share, or use a set that has such a split"
        )
    return wanted


def split_rows(
    sizes: Mapping[str, int], split: str, fractions: tuple[float, float]
) -> tuple[str, NDArray[np.int64]]:
    """Find a split among those a set comes with, or take the missing one out of its train split.

    Rows are drawn by the hash of their number, not from the end: many sets are sorted by class.

    Args:
        sizes: the number of rows of each split that exists, by its name in ``SPLITS``.
        split: the one asked for.
        fractions: the shares of validation and test, used only for those that do not exist.

    Returns:
        The existing split to read, and the rows of it that belong to the one asked for.
    """
    if split != "train" and split in sizes:
        return split, np.arange(sizes[split])
    if "train" not in sizes:
        raise ValueError(
            f"there is no split 'train' to take {split!r} from; there is: {', '.join(sizes) or 'nothing'}"
        )
    validation, test = fractions
    shares = (0.0 if "validation" in sizes else validation, 0.0 if "test" in sizes else test)
    if split == "train" and shares == (0.0, 0.0):
        return "train", np.arange(sizes["train"])
    return "train", hash_split([str(row) for row in range(sizes["train"])], split, shares)


def split_rule(sizes: Mapping[str, int], split: str, fractions: tuple[float, float]) -> str:
    """Say in words where ``split_rows`` takes a split from, for the dataset's description."""
    if split != "train" and split in sizes:
        return "its own split"
    validation, test = fractions
    taken = {"validation": validation, "test": test}
    parts = [f"{share:.0%} for {name}" for name, share in taken.items() if share > 0 and name not in sizes]
    return f"train less {' and '.join(parts)}, by a fixed hash" if parts else "its own split"

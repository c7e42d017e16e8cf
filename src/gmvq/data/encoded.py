"""Encoded images in table cells: what a Parquet file and a Hugging Face data set have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmvq.data.decode import UnreadableImageError, decode
from gmvq.data.source import Framing

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_COLUMNS = ("image", "img", "images", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_CELEBA = (178, 218)


class EncodedCells:
    """Rows of a table whose cells hold PNG or JPEG bytes, or {"bytes": ..., "path": ...} around them.

    In training they are cropped at random, unless they are aligned faces (the first is 178 x 218).
    """

    def __init__(
        self,
        read: Callable[[int], object],
        rows: NDArray[np.int64],
        labels: NDArray[np.int64] | None,
        channels: int,
        prefix: str,
        description: str,
    ) -> None:
        self.description = description
        self.skipped: list[tuple[str, str]] = []
        self._read = read
        self._rows = rows
        self._labels = labels
        self._channels = channels
        self._prefix = prefix
        self.framing: Framing = "crop"
        first = read(int(rows[0]))
        if isinstance(first, dict) and first.get("bytes") is None and first.get("path"):
            raise ValueError(
                f"{self.name(0)} holds only the path of its image; write the table with embedded images"
            )
        with contextlib.suppress(UnreadableImageError):
            self.framing = "whole" if self.image(0).size == _CELEBA else "crop"

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int) -> Image:
        cell = self._read(int(self._rows[index]))
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise UnreadableImageError("the cell holds no bytes")
        return decode(data, self._channels)

    def stack(self, indices: NDArray[np.int64]) -> None:
        return None

    def name(self, index: int) -> str:
        return f"{self._prefix}:{self._rows[index]}"

    def label(self, index: int) -> int | None:
        return None if self._labels is None else int(self._labels[self._rows[index]])


def image_column(columns: Sequence[str], asked: str | None, where: str) -> str:
    """Choose the column that holds the images.

    Raises:
        ValueError: the column asked for is not there, or none has a usual name; the message lists them.
    """
    there = ", ".join(map(repr, columns))
    if asked is not None:
        if asked not in columns:
            raise ValueError(f"{where} has no column {asked!r}; it has: {there}")
        return asked
    found = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if found is None:
        usual = ", ".join(map(repr, IMAGE_COLUMNS))
        raise ValueError(
            f"{where} has none of the columns {usual}; it has: {there}; name one with column=..."
        )
    return found


def label_column(columns: Sequence[str]) -> str | None:
    """Choose the column that holds the classes, if there is one."""
    return next((name for name in LABEL_COLUMNS if name in columns), None)

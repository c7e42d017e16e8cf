"""What every kind of images offers to the dataset (`Source`), and the one class that does (`Pictures`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Framing = Literal["tiles", "crop", "whole"]
"""How pictures become squares: cut into tiles (large photographs), scaled and cropped, or always whole."""


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


@dataclass
class Pictures:
    """Some rows of a set of pictures, read by a function that worker processes can be sent.

    Args:
        read: a row to its picture; of decoded pictures of one size also many rows to their array (``decoded``).
        rows: the rows of the split.
        names: the name of every row, or what goes in front of its number.
        description: what they are and by which rule this split was made.
        labels: the class of every row, if there are classes.
        framing: how they become squares.
        decoded: whether ``read`` takes many rows at once.
        skipped: what could not be used, with the reason.
    """

    read: Callable[[Any], Any]
    rows: NDArray[np.int64]
    names: Sequence[str] | str
    description: str
    labels: Sequence[int] | NDArray[np.integer] | None = None
    framing: Framing = "crop"
    decoded: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> NDArray[np.uint8] | Image:
        return self.read(int(self.rows[index]))

    def stack(self, indices: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        return self.read(self.rows[indices]) if self.decoded else None

    def name(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{self.names}:{row}" if isinstance(self.names, str) else self.names[row]

    def label(self, index: int) -> int | None:
        return None if self.labels is None else int(self.labels[self.rows[index]])

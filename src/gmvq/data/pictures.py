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
Crops = Literal["auto", "scales", "whole"]
"""What a crop shows of a picture of which the shape is known: see ``open_images``."""


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


def shapes_of(source: Source) -> NDArray[np.int64] | None:
    """Height and width of every picture, (N, 2), of ``Pictures`` that know them before decoding; else None."""
    return getattr(source, "shapes", None)


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
        all_shapes: height and width of every row, (n, 2), where they are known before decoding; ``read`` then takes the
            factor of ``image`` as a second argument.
        blocks: where every row of the split lies, if those of a block are best read together.
    """

    read: Callable[..., Any]
    rows: NDArray[np.int64]
    names: Sequence[str] | str
    description: str
    labels: Sequence[int] | NDArray[np.integer] | None = None
    framing: Framing = "crop"
    decoded: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    all_shapes: NDArray[np.int64] | None = None
    blocks: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shapes(self) -> NDArray[np.int64] | None:
        return None if self.all_shapes is None else self.all_shapes[self.rows]

    def image(self, index: int, reduce: int = 1) -> NDArray[np.uint8] | Image:
        row = int(self.rows[index])
        return self.read(row) if reduce == 1 else self.read(row, reduce)

    def stack(self, indices: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        return self.read(self.rows[indices]) if self.decoded else None

    def name(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{self.names}:{row}" if isinstance(self.names, str) else self.names[row]

    def label(self, index: int) -> int | None:
        return None if self.labels is None else int(self.labels[self.rows[index]])

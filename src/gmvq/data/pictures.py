"""What every kind of images offers to the dataset (`Source`), and the one class that does (`Pictures`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .skipping import UnreadableError

if TYPE_CHECKING:
    from PIL.Image import Image

Framing = Literal["tiles", "crop", "whole"]
"""How pictures become squares: cut into tiles (large photographs), scaled and cropped, or always whole."""
Crops = Literal["auto", "scales", "whole"]
"""What a crop shows of a picture of which the shape is known: see ``open_images``."""
#: As many pictures say how large those of a source are, where each has to be looked at.
_SAMPLE = 256


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
    """Height and width of every picture, (N, 2), of ``Pictures`` that know them without a look at each; else None."""
    return getattr(source, "known_shapes", None)


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
        all_shapes: height and width of every row, (n, 2), where they are known before decoding.
        shape_of: a row to its height and width by its header, where that is looked at only if it matters. With either
            of the two ``read`` takes the factor of ``image`` as a second argument.
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
    shape_of: Callable[[int], tuple[int, int]] | None = None
    blocks: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sized(self) -> bool:
        """Whether the pictures' sizes can be told before they are decoded."""
        return self.all_shapes is not None or self.shape_of is not None

    @property
    def known_shapes(self) -> NDArray[np.int64] | None:
        """Height and width of every picture, (N, 2), where no file has to be looked at for them."""
        return None if self.all_shapes is None else self.all_shapes[self.rows]

    @cached_property
    def shapes(self) -> NDArray[np.int64] | None:
        """Height and width of every picture, (N, 2), 0 of those without a header, which are entered in ``skipped``.

        With ``shape_of`` all headers are read, once.
        """
        if self.shape_of is None:
            return self.known_shapes
        return self._headers(np.arange(len(self)))

    @property
    def some_shapes(self) -> NDArray[np.int64] | None:
        """Those of all pictures, or of as many, spread evenly, as say how large the median one is."""
        if self.shape_of is None:
            return self.known_shapes
        found = self._headers(np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(np.int64)), note=False)
        return found[found.all(1)] if found.any() else None

    def _headers(self, indices: NDArray[np.int64], *, note: bool = True) -> NDArray[np.int64]:
        assert self.shape_of is not None
        found = np.zeros((len(indices), 2), dtype=np.int64)
        for place, index in enumerate(indices.tolist()):
            try:
                found[place] = self.shape_of(int(self.rows[index]))
            except UnreadableError as error:
                if note:
                    self.skipped.append((self.name(index), str(error)))
        return found

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

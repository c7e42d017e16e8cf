"""`Pictures`, what every kind of images is opened as, and how they become squares of one size.

A view makes tiles of large photographs, or one square of every picture; ``scales.py`` has a third.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..screen import printable
from .decode import UnreadableImageError
from .skipping import TOO_SMALL, UnreadableError

if TYPE_CHECKING:
    from PIL.Image import Image

Framing = Literal["tiles", "crop", "whole"]
"""How pictures become squares: cut into tiles (large photographs), scaled and cropped, or always whole."""
Crops = Literal["auto", "scales", "whole"]
"""What a crop shows of a picture of which the shape is known: see ``open_images``."""
Read = TypeVar("Read")
Pixels = NDArray[np.uint8]
Uniforms = NDArray[np.float64]
"""The chance of each draw, (B, 3) or more; None in eval."""
#: Training crops show between 1 / ZOOM and the whole of the shorter side.
ZOOM = 1.25
#: Height and width of aligned CelebA, of which the field takes the central square, in training too.
_CELEBA = (218, 178)
#: What the sides of the smaller copies are of a photograph's, where copies are asked for.
COPIES = 0.71, 0.5


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
    def cropped(self) -> bool:
        """Whether training draws crops: not of what is framed otherwise, nor where the first is an aligned face."""
        return self.framing == "crop" and not (self.sized and tuple(self.shapes(1)[0].tolist()) == _CELEBA)

    def shapes(self, most: int | None = None) -> NDArray[np.int64]:
        """Height and width of every picture that is ``sized``, (N, 2), 0 of those without a header.

        Where headers have to be read, all are, and what has none is entered in ``skipped``; or those of ``most``
        pictures, spread evenly, and nothing is entered.
        """
        if self.all_shapes is not None:
            return self.all_shapes[self.rows]
        assert self.shape_of is not None
        count = len(self)
        indices = np.unique(np.linspace(0, count - 1, most or count).astype(np.int64))
        found = np.zeros((len(indices), 2), dtype=np.int64)
        for place, index in enumerate(indices.tolist()):
            try:
                found[place] = self.shape_of(int(self.rows[index]))
            except UnreadableError as error:
                if most is None:
                    self.skipped.append((self.name(index), str(error)))
        return found

    def image(self, index: int, reduce: int = 1) -> NDArray[np.uint8] | Image:
        row = int(self.rows[index])
        return self.read(row) if reduce == 1 else self.read(row, reduce)

    def name(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{self.names}:{row}" if isinstance(self.names, str) else self.names[row]

    def label(self, index: int) -> int | None:
        return None if self.labels is None else int(self.labels[self.rows[index]])


class TileView:
    """Squares at full resolution: a fixed grid in eval, uniformly placed crops in training.

    An epoch has as many items as the grid has tiles. In training every photograph is equally likely,
    or the largest would dominate; the item's index then has no meaning, only the draw has. With ``copies`` a crop is
    of the photograph or of one of its smaller ``COPIES``, where they are as large as a tile, alike often.
    """

    def __init__(self, source: Pictures, size: int, *, copies: bool = False) -> None:
        self._size, self._photos = size, list[tuple[str, Pixels]]()
        for i in range(len(source)):
            name, photo = source.name(i), as_array(source.image(i))
            if min(photo.shape[:2]) < size:
                source.skipped.append((name, f"{TOO_SMALL} {size} x {size}"))
            else:
                self._photos.append((name, photo))
        if not self._photos:
            raise ValueError(f"no photograph is as large as {size} x {size}; ask for a smaller size")
        self._scales = [[photo, *_smaller(photo, size, copies)] for _, photo in self._photos]
        self._grid = [
            (i, y, x)
            for i, (_, photo) in enumerate(self._photos)
            for y in range(0, photo.shape[0] - size + 1, size)
            for x in range(0, photo.shape[1] - size + 1, size)
        ]

    def __len__(self) -> int:
        return len(self._grid)

    def batch(self, indices: NDArray[np.int64], draws: NDArray[np.int64], chance: Uniforms | None) -> Pixels:
        """The items, a new array of shape (B, size, size, C)."""
        size = self._size
        if chance is None:
            places = [(self._photos[i][1], y, x) for i, y, x in (self._grid[j] for j in indices)]
        else:
            places = []
            for first, down, right, scale in chance[:, :4]:
                scales = self._scales[int(first * len(self._scales))]
                photo = scales[int(scale * len(scales))]
                height, width = (side - size + 1 for side in photo.shape[:2])
                places.append((photo, int(down * height), int(right * width)))
        return np.stack([photo[y : y + size, x : x + size] for photo, y, x in places])

    def name(self, index: int) -> str:
        i, y, x = self._grid[index]
        return f"{self._photos[i][0]}[y={y},x={x}]"

    def label(self, index: int) -> int | None:
        return None

    @property
    def pictures(self) -> int:
        """How many photographs the tiles are of."""
        return len(self._photos)

    def whole(self, number: int) -> tuple[str, Pixels]:
        """The name of a photograph and the photograph."""
        return self._photos[number]


class PictureView:
    """One square per picture: centre crop in eval, a random scale and place in training if ``crops``.

    A picture that turns out to be unreadable is replaced by the next, as ``first_readable`` says.
    """

    def __init__(self, source: Pictures, size: int, *, crops: bool) -> None:
        self._source, self._size, self._crops = source, size, crops
        self._shapes = None if source.all_shapes is None else source.shapes()
        self._broken: set[int] = set()
        self.name, self.label = source.name, source.label

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: NDArray[np.int64], draws: NDArray[np.int64], chance: Uniforms | None) -> Pixels:
        """The items, a new array of shape (B, size, size, C)."""
        source = self._source
        if source.decoded:
            stacked = source.read(source.rows[indices])
            if stacked.shape[1:3] == (self._size, self._size):
                return stacked
        uniforms = [None] * len(indices) if chance is None or not self._crops else chance
        squares = [frame(self._read(int(i)), self._size, u) for i, u in zip(indices, uniforms, strict=True)]
        return np.stack(squares)

    def _read(self, index: int) -> Pixels | Image:
        def read(candidate: int) -> Pixels | Image:
            if self._shapes is None:
                return self._source.image(candidate)
            # A large picture is decoded smaller: twice the pixels that a crop needs are left.
            spare = int(self._shapes[candidate].min() / (2 * ZOOM * self._size))
            return self._source.image(candidate, min(8, 1 << max(0, spare.bit_length() - 1)))

        return first_readable(self._source, range(len(self._source)), index, self._broken, read)[1]


def first_readable(
    source: Pictures,
    rows: Sequence[int] | NDArray[np.int64],
    start: int,
    broken: set[int],
    read: Callable[[int], Read],
) -> tuple[int, Read]:
    """Read one of some rows of a source, or the next that can be read; return its place among them, too.

    One that cannot is added to ``broken``, entered in ``source.skipped`` and warned about, once.
    """
    for place in (i % len(rows) for i in range(start, start + len(rows))):
        if place in broken:
            continue
        try:
            return place, read(place)
        except UnreadableImageError as error:
            name = source.name(int(rows[place]))
            broken.add(place)
            source.skipped.append((name, str(error)))
            warnings.warn(
                printable(f"{name} cannot be read ({error}); the next readable image replaces it"),
                stacklevel=2,
            )
    name, problem = source.skipped[-1]
    raise ValueError(printable(f"none of the {len(rows)} images can be read; {name}: {problem}"))


def resized(
    picture: Any, shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Pixels:
    """A picture or a part of it, left, top, right, bottom, as (*shape, C), antialiased (Lanczos)."""
    pil = require("PIL.Image", "data")
    if isinstance(picture, np.ndarray):
        # PIL's grey pictures have no axis of channels.
        picture = pil.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    return as_array(picture.resize(shape[::-1], pil.Resampling.LANCZOS, box=box))


def _smaller(photo: Pixels, size: int, copies: bool) -> list[Pixels]:
    """The ``COPIES`` of a photograph, (H, W, C), that are as large as a tile."""
    height, width = photo.shape[:2]
    sides = [(int(factor * height), int(factor * width)) for factor in COPIES if copies]
    return [resized(photo, shape) for shape in sides if min(shape) >= size]


def frame(picture: Pixels | Image, size: int, chance: NDArray[np.float64] | None) -> Pixels:
    """Scale and crop a picture, (H, W, C) or PIL in mode L or RGB, to (size, size, C), antialiased (Lanczos).

    ``chance`` has three uniforms for scale and place; None takes the largest square in the centre.
    """
    height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)
    if (width, height) == (size, size):
        return as_array(picture)
    side = float(min(width, height))
    x, y = (width - side) // 2, (height - side) // 2
    if chance is not None:
        side /= 1 + (ZOOM - 1) * chance[0]
        x, y = int(chance[1] * (width - side)), int(chance[2] * (height - side))
    return resized(picture, (size, size), (x, y, x + side, y + side))


def as_array(picture: Pixels | Image) -> Pixels:
    """8-bit pixels (H, W, C)."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels

"""How pictures become squares of one size: tiles cut from large photographs, or one square per picture."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gmvq.data.decode import UnreadableImageError
from gmvq.data.source import Source
from gmvq.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

Uniforms = NDArray[np.float64]
ZOOM = 1.25
"""Training crops show between 1 / ZOOM and the whole of the shorter side."""


class View(Protocol):
    """Items of one size from a source; ``chance`` (B, 3) holds the uniforms of each draw, None in eval."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64], chance: Uniforms | None) -> NDArray[np.uint8]:
        """The items, a new uint8 array of shape (B, size, size, C)."""
        ...

    def name(self, index: int) -> str: ...

    def label(self, index: int) -> int | None: ...


class TileView:
    """Squares at full resolution: a fixed grid in eval, uniformly placed crops in training.

    An epoch has as many items as the grid has tiles. In training every photograph is equally likely,
    or the largest would dominate; the item's index then has no meaning, only the draw has.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._size = size
        self._names: list[str] = []
        self._photos: list[NDArray[np.uint8]] = []
        for i in range(len(source)):
            photo = np.asarray(source.image(i))
            if min(photo.shape[:2]) < size:
                source.skipped.append((source.name(i), f"smaller than {size} x {size}"))
                continue
            self._photos.append(photo)
            self._names.append(source.name(i))
        if not self._photos:
            raise ValueError(f"no photograph is as large as {size} x {size}; ask for a smaller size")
        self._grid = [
            (number, y, x)
            for number, photo in enumerate(self._photos)
            for y in range(0, photo.shape[0] - size + 1, size)
            for x in range(0, photo.shape[1] - size + 1, size)
        ]

    def __len__(self) -> int:
        return len(self._grid)

    def batch(self, indices: NDArray[np.int64], chance: Uniforms | None) -> NDArray[np.uint8]:
        size = self._size
        out = np.empty((len(indices), size, size, self._photos[0].shape[2]), dtype=np.uint8)
        if chance is None:
            places = [self._grid[i] for i in indices]
        else:
            numbers = (chance[:, 0] * len(self._photos)).astype(np.int64)
            places = [
                (
                    n,
                    int(u * (self._photos[n].shape[0] - size + 1)),
                    int(v * (self._photos[n].shape[1] - size + 1)),
                )
                for n, u, v in zip(
                    numbers.tolist(), chance[:, 1].tolist(), chance[:, 2].tolist(), strict=True
                )
            ]
        for row, (number, y, x) in zip(out, places, strict=True):
            row[:] = self._photos[number][y : y + size, x : x + size]
        return out

    def name(self, index: int) -> str:
        number, y, x = self._grid[index]
        return f"{self._names[number]}[y={y},x={x}]"

    def label(self, index: int) -> int | None:
        return None


class PictureView:
    """One square per picture: centre crop in eval, a random scale and place in training if ``crops``.

    A picture that turns out to be unreadable is replaced by the next readable one, always the same, entered
    in ``source.skipped`` and warned about once.
    """

    def __init__(self, source: Source, size: int, *, crops: bool) -> None:
        self._source = source
        self._size = size
        self._crops = crops
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: NDArray[np.int64], chance: Uniforms | None) -> NDArray[np.uint8]:
        stacked = self._source.stack(indices)
        if stacked is not None and stacked.shape[1:3] == (self._size, self._size):
            return stacked
        draws = [None] * len(indices) if chance is None or not self._crops else chance
        squares = [frame(self._read(int(i)), self._size, u) for i, u in zip(indices, draws, strict=True)]
        return np.stack(squares)

    def name(self, index: int) -> str:
        return self._source.name(index)

    def label(self, index: int) -> int | None:
        return self._source.label(index)

    def _read(self, index: int) -> NDArray[np.uint8] | Image:
        count = len(self._source)
        for candidate in (i % count for i in range(index, index + count)):
            if candidate in self._broken:
                continue
            try:
                return self._source.image(candidate)
            except UnreadableImageError as error:
                name = self._source.name(candidate)
                self._broken.add(candidate)
                self._source.skipped.append((name, str(error)))
                warnings.warn(
                    f"{name} cannot be read ({error}); the next readable image replaces it", stacklevel=2
                )
        raise ValueError(f"none of the {count} images can be read; {self._source.skipped[-1]}")


def frame(picture: NDArray[np.uint8] | Image, size: int, chance: Uniforms | None) -> NDArray[np.uint8]:
    """Scale and crop one picture to (size, size, C), antialiased (Lanczos).

    Args:
        picture: uint8 of shape (H, W, C), or PIL in mode L or RGB.
        size: the side of the square, in pixels.
        chance: three uniforms for scale and place; None takes the largest square in the centre.
    """
    pil = require("PIL.Image", "data")
    image = (
        pil.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
        if isinstance(picture, np.ndarray)
        else picture
    )
    width, height = image.size
    if (width, height) != (size, size):
        side = float(min(width, height))
        x, y = (width - side) // 2, (height - side) // 2
        if chance is not None:
            side /= 1 + (ZOOM - 1) * chance[0]
            x, y = int(chance[1] * (width - side)), int(chance[2] * (height - side))
        image = image.resize((size, size), pil.Resampling.LANCZOS, box=(x, y, x + side, y + side))
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels

"""Squares of pictures much larger than they are: at random scales and places in training, in tiles elsewhere."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from .decode import UnreadableImageError
from .pictures import Pictures, Pixels, Uniforms, as_array, first_readable, resized
from .randomness import permutation
from .skipping import TOO_SMALL

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, ...]
Taken = TypeVar("Taken")

#: Bytes of decoded pictures that are kept in training.
CACHE_BYTES = 1 << 30
#: The most pixels of a picture that are read; a larger one is decoded at half or a quarter of its size.
MOST_PIXELS = 1 << 25
#: "auto" reads at random scales where the shorter side of the median picture has so many pixels and so many crops; of
#: so many pictures, where each has to be looked at.
_LARGE, _CROPS_LONG, _SAMPLE = 512, 4, 256


def are_large(source: Pictures, size: int) -> bool:
    """Whether the pictures of a source are so much larger than the crop that a crop should not show all of one."""
    shorter = source.shapes(_SAMPLE).min(1) if source.sized else np.array([])
    shorter = shorter[shorter > 0]
    return shorter.size > 0 and float(np.median(shorter)) >= max(_LARGE, _CROPS_LONG * size)


class Slots:
    """Memory for some pictures; workers that are forked share it, workers that are spawned have their own.

    It is anonymous: it takes room as it is written, nothing stays when the processes end, and the size of /dev/shm does
    not matter. A slot has ``size`` bytes; ``layout`` gives the shapes of a picture's arrays by its number.
    """

    def __init__(self, count: int, size: int, layout: Callable[[int], Sequence[Shape]]) -> None:
        self._arguments = (count, size, layout)
        self._layout = layout
        self._pixels = np.frombuffer(mmap.mmap(-1, count * size), dtype=np.uint8).reshape(count, size)
        # What each slot holds: the stamp it was asked for with, 0 for nothing, and the number of the picture.
        self._held = np.frombuffer(mmap.mmap(-1, 16 * count), dtype=np.int64).reshape(count, 2)
        self._lock = multiprocessing.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def take(
        self,
        slot: int,
        stamp: int,
        load: Callable[[], tuple[int, list[Pixels]]],
        use: Callable[[int, list[Pixels]], Taken],
    ) -> Taken:
        """Return what ``use`` makes of a picture's number and arrays, which ``load`` returns if the slot has them not.

        The picture follows from slot and ``stamp``, which is 1 or more and larger for a later picture of the slot.
        ``use`` copies what is needed, as the arrays may change afterwards.
        """
        with self._lock:
            held, picture = self._held[slot].tolist()
            if held == stamp:
                return use(picture, self._arrays(slot, picture))
        # Without the lock, so that other workers go on meanwhile. Two may load the same picture: both are right.
        picture, arrays = load()
        with self._lock:
            # A worker that is behind must not put an old picture over a new one.
            if self._held[slot, 0] < stamp:
                for kept, array in zip(self._arrays(slot, picture), arrays, strict=True):
                    kept[...] = array
                self._held[slot] = stamp, picture
        return use(picture, arrays)

    def _arrays(self, slot: int, picture: int) -> list[Pixels]:
        shapes = self._layout(picture)
        stops = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = np.split(self._pixels[slot, : stops[-1]], stops[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class ScaleView:
    """Squares of large pictures.

    In training a crop is as if its picture had been scaled until the shorter side has t pixels, log t uniform between
    the crop's size and the side as it is, and cut at a uniform place; pictures are equally likely. In eval the items
    are tiles that cover every picture as it is; the last of a row or column overlaps the one before.

    Decoding takes more time than a training step, so decoded pictures are kept in ``Slots``. Where not all find room,
    the slots change one after the other: the picture of a slot at draw d follows from (seed, slot, d), each is decoded
    for as many crops as make up a 64th of its pixels (8 at least), and all have their turn.

    A picture that turns out to be unreadable is replaced by the next, as ``first_readable`` says.
    """

    def __init__(
        self,
        source: Pictures,
        size: int,
        channels: int,
        seed: int,
        *,
        training: bool,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._source, self._size, self._seed = source, size, seed
        shapes = source.shapes()
        shorter = shapes.min(1)
        small = np.flatnonzero((shorter > 0) & (shorter < size)).tolist()
        source.skipped.extend((source.name(i), f"{TOO_SMALL} {size} x {size}") for i in small)
        self._order = np.flatnonzero(shorter >= size)
        if not len(self._order):
            raise ValueError(f"no picture is as large as {size} x {size}; ask for a smaller size")
        native = shapes[self._order]
        halvings = np.ceil(np.log2(np.maximum(native.prod(1) / MOST_PIXELS, 1)) / 2).astype(np.int64)
        self._factors = 2**halvings
        self._shapes = -(-native // self._factors[:, None])
        self._columns = -(-self._shapes[:, 1] // size)
        self._tile_ends = np.cumsum(-(-self._shapes[:, 0] // size) * self._columns)
        self._broken: set[int] = set()
        self._last: tuple[int, int, Pixels] | None = None
        self.tiles = self._length = int(self._tile_ends[-1])
        self.pictures = len(self._order)
        self._slots: Slots | None = None
        self._crops_per_decode = max(8, round(float(self._shapes.prod(1).mean()) / (64 * size**2)))
        if training:
            layout = partial(_layout, self._shapes, channels, size)
            largest = max(sum(int(np.prod(s)) for s in layout(i)) for i in range(self.pictures))
            self._slot_count = min(self.pictures, max(1, cache_bytes // largest))
            self._slots = Slots(self._slot_count, largest, layout)

    def __len__(self) -> int:
        return self._length

    def keep(self, most: int) -> None:
        """Make so many tiles, spread evenly, the items of eval."""
        self._length = min(self.tiles, most)

    def batch(self, indices: NDArray[np.int64], draws: NDArray[np.int64], chance: Uniforms | None) -> Pixels:
        """The items, a new array of shape (B, size, size, C)."""
        if chance is None:
            return np.stack([self._tile(int(index)) for index in indices])
        assert self._slots is not None
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (draw, first) in enumerate(zip(draws.tolist(), chance[:, 0], strict=True)):
            slot = int(first * self._slot_count)
            groups.setdefault((slot, self._turn(slot, draw)), []).append(place)
        squares: list[Any] = [None] * len(draws)
        # Workers begin at different pictures, so that they do not decode the same ones at the same time.
        worker = get_worker_info()
        begin = 0 if worker is None else len(groups) * worker.id // worker.num_workers
        for (slot, turn), places in (ordered := sorted(groups.items()))[begin:] + ordered[:begin]:
            load = partial(self._load, slot, turn)
            regions = self._slots.take(slot, turn + 1, load, partial(self._regions, chance[places, 1:]))
            for place, region in zip(places, regions, strict=True):
                squares[place] = resized(region[0], (self._size, self._size), region[1])
        return np.stack(squares)

    def name(self, index: int) -> str:
        picture, y, x = self._place(index)
        return f"{self._name(picture)}[y={y},x={x}]"

    def label(self, index: int) -> int | None:
        return self._source.label(int(self._order[self._place(index)[0]]))

    def whole(self, number: int) -> tuple[str, Image]:
        """The name of a picture and the picture."""
        picture, image = self._decode(number)
        return self._name(picture), image

    def _name(self, picture: int) -> str:
        return self._source.name(int(self._order[picture]))

    def _place(self, index: int) -> tuple[int, int, int]:
        """Picture and upper left corner of a tile."""
        tile = (2 * index + 1) * self.tiles // (2 * self._length)
        picture = int(np.searchsorted(self._tile_ends, tile, side="right"))
        within = tile - (int(self._tile_ends[picture - 1]) if picture else 0)
        row, column = divmod(within, int(self._columns[picture]))
        height, width = self._shapes[picture].tolist()
        y, x = min(row * self._size, height - self._size), min(column * self._size, width - self._size)
        return picture, y, x

    def _tile(self, index: int) -> Pixels:
        asked, y, x = self._place(index)
        if self._last is None or self._last[0] != asked:
            picture, image = self._decode(asked)
            self._last = asked, picture, as_array(image)
        _, picture, pixels = self._last
        # Only a picture that stands in for an unreadable one can be smaller than the place says.
        y, x = (min(at, side - self._size) for at, side in zip((y, x), pixels.shape[:2], strict=True))
        return pixels[y : y + self._size, x : x + self._size]

    def _turn(self, slot: int, draw: int) -> int:
        """How many pictures a slot has had before the one that it has at a draw."""
        if self._slot_count == self.pictures:
            return 0
        return (draw + slot * self._crops_per_decode) // (self._slot_count * self._crops_per_decode)

    def _load(self, slot: int, turn: int) -> tuple[int, list[Pixels]]:
        """The picture of a slot at its turn, at full size, half, a quarter and so on."""
        epoch, place = divmod(turn * self._slot_count + slot, self.pictures)
        picture, image = self._decode(int(_permutation(self._seed, epoch, self.pictures)[place]))
        arrays = [as_array(image)]
        for _ in range(_halvings(self._shapes[picture], self._size)):
            image = image.reduce(2)
            arrays.append(as_array(image))
        return picture, arrays

    def _decode(self, first: int) -> tuple[int, Image]:
        """Decode a picture, or the next readable one."""

        def read(picture: int) -> Image:
            image: Any = self._source.image(int(self._order[picture]), int(self._factors[picture]))
            if (image.height, image.width) != tuple(self._shapes[picture]):
                raise UnreadableImageError("it is not of the size that its header says")
            return image

        return first_readable(self._source, self._order, first, self._broken, read)

    def _regions(
        self, chance: NDArray[np.float64], picture: int, arrays: list[Pixels]
    ) -> list[tuple[Pixels, tuple[float, float, float, float]]]:
        """For each draw of a picture a copy of its surroundings, and the square in it: left, top, right, bottom."""
        height, width = self._shapes[picture].tolist()
        shorter = min(height, width)
        found = []
        for scale, down, right in chance:
            side = self._size * (shorter / self._size) ** scale
            array = arrays[_halvings((side, side), self._size)]
            rows, columns = array.shape[:2]
            top, bottom = (float(y) * rows / height for y in _span(down, side, height))
            start, end = (float(x) * columns / width for x in _span(right, side, width))
            y, x = int(top), int(start)
            region = array[y : int(np.ceil(bottom)), x : int(np.ceil(end))].copy()
            box = (start - x, top - y, min(end - x, region.shape[1]), min(bottom - y, region.shape[0]))
            found.append((region, box))
        return found


@lru_cache(8)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return permutation(seed, epoch, count)


def _halvings(shape: Any, size: int) -> int:
    """How often a picture, or a part of it, can be halved before its shorter side falls under twice the crop's."""
    return max(0, int(min(shape) // size).bit_length() - 2)


def _layout(shapes: NDArray[np.int64], channels: int, size: int, picture: int) -> list[Shape]:
    height, width = shapes[picture].tolist()
    powers = [2**i for i in range(_halvings((height, width), size) + 1)]
    return [(-(-height // power), -(-width // power), channels) for power in powers]


def _span(chance: float, side: float, length: int) -> tuple[float, float]:
    start = chance * (length - side)
    return start, min(start + side, float(length))

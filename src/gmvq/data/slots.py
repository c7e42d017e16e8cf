"""Decoded pictures at several sizes, as many as a bound on memory allows, for all worker processes of a loader."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Shape = tuple[int, ...]
Taken = TypeVar("Taken")


class Slots:
    """Memory for some pictures; workers that are forked share it, workers that are spawned have their own.

    The memory is anonymous: it takes room as it is written, nothing of it stays when the processes end, and the size of
    /dev/shm does not matter. A slot has ``size`` bytes; ``layout`` gives the shapes of a picture's arrays by its
    number.
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

    def __len__(self) -> int:
        return len(self._held)

    def take(
        self,
        slot: int,
        stamp: int,
        load: Callable[[], tuple[int, list[Pixels]]],
        use: Callable[[int, list[Pixels]], Taken],
    ) -> Taken:
        """Return what ``use`` makes of a picture, which is loaded if its slot does not hold it yet.

        The picture follows from slot and ``stamp``, which is 1 or more and larger for a later picture of the slot.
        ``load`` returns its number and its arrays; ``use``, given both, copies what is needed, as they may change
        afterwards.
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

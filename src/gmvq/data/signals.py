"""`SignalDataset`: windows of one length from recordings or series, as a torch dataset."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from gmvq.data.dataset import ImageDataset, Index
from gmvq.data.randomness import uniforms
from gmvq.data.scale import SignalScale
from gmvq.errors import check_positive


class SignalSource(Protocol):
    """A numbered collection of signals in their own units, all with the same channels; no randomness, no windows."""

    description: str
    skipped: list[tuple[str, str]]
    scale: SignalScale
    lengths: NDArray[np.int64]
    """Samples of each signal, at least 1."""

    def read(self, index: int, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop`` of a signal: (channels, stop - start)."""
        ...

    def name(self, index: int) -> str: ...


class SignalDataset(Dataset[Tensor]):
    """Windows (channels, size) of signals, on the scale [0, 1]; build one with ``open_signals``.

    Without ``augment`` every signal is cut into consecutive windows; the last one repeats the signal's last sample up
    to its end. With it, each draw is a window that begins anywhere, every place of every signal equally likely; it is
    a pure function of (seed, draw), as in ``ImageDataset``, and the item's number has no meaning.

    Args:
        source: where the signals come from.
        size: samples of every item.
        channels: of the source.
        augment: draw windows that begin anywhere.
        seed: of these draws.

    Attributes:
        scale: the map between the signals' own units and [0, 1], and their sample rate.
    """

    def __init__(
        self, source: SignalSource, *, size: int, channels: int, augment: bool = False, seed: int = 0
    ) -> None:
        check_positive("size", size)
        self.size, self.channels, self.scale = size, channels, source.scale
        self._source, self._augment, self._seed = source, augment, seed
        self._window_ends = np.cumsum(-(-source.lengths // size))
        self._start_ends = np.cumsum(np.maximum(source.lengths - size, 0) + 1)

    def __len__(self) -> int:
        return int(self._window_ends[-1])

    def __getitem__(self, index: Index) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Index]) -> list[Tensor]:
        """Fetch many items at once; the data loader calls this."""
        pairs = [index if isinstance(index, tuple) else (index, None) for index in indices]
        items = [self._position(number) for number, _ in pairs]
        if self._augment:
            draws = [item if draw is None else draw for item, (_, draw) in zip(items, pairs, strict=True)]
            chance = uniforms(self._seed, np.array(draws, dtype=np.int64), 1)[:, 0]
            starts = (chance * self._start_ends[-1]).astype(np.int64)
            places = [_place(self._start_ends, int(start)) for start in starts]
        else:
            places = [self._window(item) for item in items]
        windows = np.stack([self._read(number, start) for number, start in places])
        return list(torch.from_numpy(self.scale.to_unit(windows)).unbind())

    @property
    def sample_rate(self) -> int | None:
        """Samples per second, Hz; None for a series."""
        return self.scale.sample_rate

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Files that could not be used, each with the reason."""
        return self._source.skipped

    @property
    def description(self) -> str:
        """One line: what the signals are, how many windows, and by which rule this split was made."""
        count, total = len(self._source.lengths), int(self._source.lengths.sum())
        rate = self.sample_rate
        length = f"{total:,} samples" if rate is None else f"{total / rate:,.1f} s at {rate} Hz"
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        return (
            f"{self._source.description}: {count} signal{'s' * (count > 1)}, {length}, "
            f"{len(self)} windows of {self.size}x{self.channels}{skipped}"
        )

    def item_name(self, index: int) -> str:
        """Return what item ``index`` is called: its file or series, and where it begins."""
        number, start = self._window(self._position(index))
        return f"{self._source.name(number)}[t={start}]"

    def label(self, index: int) -> None:
        """Signals have no classes."""
        return None

    def _window(self, item: int) -> tuple[int, int]:
        """Signal and first sample of a consecutive window."""
        number, place = _place(self._window_ends, item)
        return number, place * self.size

    def _read(self, number: int, start: int) -> NDArray[np.float32]:
        stop = min(start + self.size, int(self._source.lengths[number]))
        window = self._source.read(number, start, stop)
        return np.pad(window, ((0, 0), (0, self.size - window.shape[1])), mode="edge")

    def _position(self, index: int) -> int:
        position, length = operator.index(index), len(self)
        if not -length <= position < length:
            raise IndexError(f"index {position} is out of range for a dataset of {length} windows")
        return position % length


TrainingSet = ImageDataset | SignalDataset
"""What ``open_dataset`` returns: a dataset whose items may be asked for as (item, draw)."""


def _place(ends: NDArray[np.int64], item: int) -> tuple[int, int]:
    """From a number over all signals to (signal, number within it)."""
    number = int(np.searchsorted(ends, item, side="right"))
    return number, item - (int(ends[number - 1]) if number else 0)


def check_sample_rate(dataset: SignalDataset, rate: int | None) -> None:
    """Raise ValueError unless a dataset has the sample rate of the training, None for series."""
    if dataset.sample_rate != rate:
        wanted, found = (f"at {r} Hz" if r else "without a sample rate" for r in (rate, dataset.sample_rate))
        raise ValueError(
            f"the model was trained on signals {wanted}, and these are {found} ({dataset.description}); resample them"
        )

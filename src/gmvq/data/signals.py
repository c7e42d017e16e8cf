"""`SignalDataset`: windows of one length from recordings or series, on the scale [0, 1] of their `SignalScale`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import check_positive
from .dataset import ImageDataset, Index, items_and_draws, position
from .randomness import uniforms
from .skipping import UnreadableError, Watch
from .splits import Wanted, choose_split, time_block

Values = TypeVar("Values", Tensor, NDArray[np.float32])
Spans = NDArray[np.int64]
"""Parts of signals (n, 3): the number of the signal, its first sample, the one behind its last."""


@dataclass(frozen=True)
class SignalScale:
    """The affine map (x - low) / (high - low), and the rate of the samples.

    Sound has low, high = -1, 1 whatever its loudness; a series has the range of its training split, widened. Values
    outside are mapped outside of [0, 1]; only what is measured and written is clamped.

    Args:
        low, high: what becomes 0 and 1, in the signal's own units.
        sample_rate: samples per second of sound, Hz; None for a series, which is written as numbers.

    Raises:
        ValueError: low is not below high, or the rate is not positive.
    """

    low: float
    high: float
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"data.value_range must be two numbers, low < high; got {self.low}, {self.high}")
        if self.sample_rate is not None and self.sample_rate < 1:
            raise ValueError(f"sample_rate must be positive, got {self.sample_rate}")

    def to_unit(self, values: Values) -> Values:
        """From the signal's own units to [0, 1]."""
        return (values - self.low) / (self.high - self.low)

    def from_unit(self, values: Values) -> Values:
        """From [0, 1] to the signal's own units."""
        return values * (self.high - self.low) + self.low

    def to_settings(self) -> dict[str, Any]:
        """What JSON keeps of it beside a model."""
        return {"value_range": [self.low, self.high], "sample_rate": self.sample_rate}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self | None:
        """Read what ``to_settings`` gave; None where it is not there, as for a model of images.

        Raises:
            ValueError: it is there, and damaged.
        """
        limits, rate = settings.get("value_range"), settings.get("sample_rate")
        if limits is None:
            return None
        numbers = isinstance(limits, list | tuple) and all(type(limit) in (int, float) for limit in limits)
        if not numbers or len(limits) != 2 or not (rate is None or type(rate) is int):
            raise ValueError(f"the model's value_range and sample_rate are damaged: {limits!r}, {rate!r}")
        return cls(float(limits[0]), float(limits[1]), rate)


@dataclass
class SignalSource:
    """A numbered collection of signals in their own units, all with the same channels; no randomness, no windows.

    Args:
        read_span: samples (channels, stop - start) from the number of a signal, start and stop; worker processes are
            sent it.
        spans: what belongs to the split.
        names: of all signals, by their number.
        scale: of all.
        description: what they are and by which rule this split was made.
        skipped: what could not be used, with the reason.
    """

    read_span: Callable[[int, int, int], NDArray[np.float32]]
    spans: Spans
    names: Sequence[str]
    scale: SignalScale
    description: str
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Samples of each signal, at least 1."""
        return self.spans[:, 2] - self.spans[:, 1]

    def read(self, index: int, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop`` of a signal: (channels, stop - start)."""
        number, first, _ = self.spans[index].tolist()
        return self.read_span(number, first + start, first + stop)

    def name(self, index: int) -> str:
        return self.names[int(self.spans[index, 0])]


def wrong_channels(what: str, found: int, wanted: int, otherwise: str) -> str:
    """That ``what`` has other channels than the model takes, and to take these, ``otherwise`` something else."""
    count = f"{found} channel{'s' * (found > 1)}"
    return f"{what} has {count}, and the model takes {wanted}; pass --model.channels {found}{otherwise}"


def choose_spans(
    keys: Mapping[str, Sequence[str | int]], lengths: Mapping[str, Sequence[int]], wanted: Wanted, what: str
) -> tuple[str, Spans, str]:
    """Divide signals whole, as ``choose_split`` does, or a single one that does not come divided in time.

    ``keys`` are of the signals of every split that exists, ``lengths`` their samples. Returns the split to read, what
    belongs to the one asked for, and the rule in words.
    """
    if list(keys) == ["train"] and len(keys["train"]) == 1:
        first, last, rule = time_block(lengths["train"][0], wanted.split, wanted.fractions)
        return "train", np.array([[0, first, last]]), rule
    home, rows, rule = choose_split(keys, wanted, what)
    stops = np.asarray(lengths[home], dtype=np.int64)[rows]
    return home, np.stack([rows, np.zeros_like(rows), stops], axis=1), rule


class SignalDataset(Dataset[Tensor]):
    """Windows (channels, size) of signals, on the scale [0, 1]; build one with ``open_signals``.

    Without ``augment`` every signal is cut into consecutive windows; the last one repeats the signal's last sample up
    to its end. With it, each draw is a window that begins anywhere, every place of every signal equally likely; it is
    a pure function of (seed, draw), as in ``ImageDataset``, and the item's number has no meaning.

    A window that cannot be read is replaced by the next readable one, always the same, and entered in ``skipped``.

    Args:
        source: where the signals come from, with ``channels`` channels.
        size, channels, seed: as in ``open_signals``.
        augment: draw windows that begin anywhere.

    Attributes:
        scale: the map between the signals' own units and [0, 1], and their sample rate.
        watch: what happens besides when a window cannot be read.
    """

    def __init__(
        self, source: SignalSource, *, size: int, channels: int, augment: bool = False, seed: int = 0
    ) -> None:
        check_positive("size", size)
        self.size, self.channels, self.scale = size, channels, source.scale
        self._source, self._augment, self._seed = source, augment, seed
        self.watch = Watch()
        self._unreadable: set[str] = set()
        self._lengths = source.lengths
        self._window_ends = np.cumsum(-(-self._lengths // size))
        self._start_ends = np.cumsum(np.maximum(self._lengths - size, 0) + 1)

    def __len__(self) -> int:
        return int(self._window_ends[-1])

    def __getitem__(self, index: Index) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Index]) -> list[Tensor]:
        """Fetch many items at once; the data loader calls this."""
        items, draws = items_and_draws(indices, len(self))
        if self._augment:
            starts = (uniforms(self._seed, draws, 1)[:, 0] * self._start_ends[-1]).astype(np.int64)
            places = [_place(self._start_ends, int(start)) for start in starts]
        else:
            places = [self._window(int(item)) for item in items]
        windows = np.stack([self._read_or_next(number, start) for number, start in places])
        self.watch.look(self.skipped)
        return list(torch.from_numpy(self.scale.to_unit(windows)).unbind())

    @property
    def sample_rate(self) -> int | None:
        """Samples per second, Hz; None for a series."""
        return self.scale.sample_rate

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Files that could not be used, and windows that could not be read, each with the reason."""
        return self._source.skipped

    @property
    def description(self) -> str:
        """One line: what the signals are, how many windows, and by which rule this split was made."""
        count, total = len(self._lengths), int(self._lengths.sum())
        rate = self.sample_rate
        length = f"{total:,} samples" if rate is None else f"{total / rate:,.1f} s at {rate} Hz"
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        return (
            f"{self._source.description}: {count} signal{'s' * (count > 1)}, {length}, "
            f"{len(self)} windows of {self.size}x{self.channels}{skipped}"
        )

    def item_name(self, index: int) -> str:
        """Return what item ``index`` is called: its file or series, and where it begins."""
        return self._name(*self._window(position(index, len(self))))

    def label(self, index: int) -> None:
        """Signals have no classes."""
        return None

    def _window(self, item: int) -> tuple[int, int]:
        """Signal and first sample of a consecutive window."""
        number, place = _place(self._window_ends, item)
        return number, place * self.size

    def _name(self, number: int, start: int) -> str:
        return f"{self._source.name(number)}[t={start}]"

    def _read_or_next(self, number: int, start: int) -> NDArray[np.float32]:
        """A window, or the next that can be read: the following of its signal, then those of the others."""
        place, count = start, len(self._lengths)
        for other in range(number, number + count + 1):
            signal = other % count
            while place < self._lengths[signal]:
                try:
                    return self._read(signal, place)
                except (UnreadableError, OSError) as error:
                    self._skip(signal, place, str(error))
                place += self.size
            place = 0
        raise ValueError(f"no window of the {count} signals can be read; {self.skipped[-1]}")

    def _skip(self, number: int, start: int, reason: str) -> None:
        """Enter a window once; of windows that begin anywhere only their signal."""
        name = self._source.name(number) if self._augment else self._name(number, start)
        if name not in self._unreadable:
            self._unreadable.add(name)
            self.skipped.append((name, reason))

    def _read(self, number: int, start: int) -> NDArray[np.float32]:
        stop = min(start + self.size, int(self._lengths[number]))
        window = self._source.read(number, start, stop)
        return np.pad(window, ((0, 0), (0, self.size - window.shape[1])), mode="edge")


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

"""Schedules: a value as a function of training progress in [0, 1], advanced explicitly by ``set_progress``.

Each is a small frozen object. Called with ``None`` (progress never set) it returns ``idle``, by default ``start``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """Anything that maps progress in [0, 1], or ``None``, to a value."""

    def __call__(self, progress: float | None) -> float: ...


@dataclass(frozen=True)
class Constant:
    """The same value always."""

    value: float

    def __call__(self, progress: float | None) -> float:
        return self.value


@dataclass(frozen=True)
class _Ramp:
    """From ``start`` to ``end`` while progress runs from ``begin`` to ``finish``; ``idle`` without progress."""

    start: float
    end: float
    idle: float | None = None
    begin: float = 0.0
    finish: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin < self.finish <= 1.0:
            raise ValueError(f"need 0 <= begin < finish <= 1, got begin={self.begin}, finish={self.finish}")

    def _interpolate(self, fraction: float) -> float:
        raise NotImplementedError

    def __call__(self, progress: float | None) -> float:
        if progress is None:
            return self.start if self.idle is None else self.idle
        fraction = (progress - self.begin) / (self.finish - self.begin)
        return self._interpolate(min(max(fraction, 0.0), 1.0))


@dataclass(frozen=True)
class Linear(_Ramp):
    """A straight line."""

    def _interpolate(self, fraction: float) -> float:
        return self.start + (self.end - self.start) * fraction


@dataclass(frozen=True)
class Cosine(_Ramp):
    """Half a cosine: flat at both ends."""

    def _interpolate(self, fraction: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


@dataclass(frozen=True)
class Exponential(_Ramp):
    """A straight line in the logarithm; both ends must be positive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.start, self.end) <= 0:
            raise ValueError(f"Exponential needs positive ends, got start={self.start}, end={self.end}")

    def _interpolate(self, fraction: float) -> float:
        return self.start * (self.end / self.start) ** fraction


def known_zero(value: Tensor) -> bool:
    """Whether a schedule's value, 0-d, is zero, as far as that is known without waiting for a device."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(value)

"""`SignalScale`: between a signal's own units and the scale [0, 1] that networks and likelihoods work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = TypeVar("Values", Tensor, NDArray[np.float32])


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

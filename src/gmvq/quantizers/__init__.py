"""The quantizer layers, one contract: latents (..., D) in, ``QuantizerOutput`` out."""

from __future__ import annotations

from typing import Any

from .base import Quantizer
from .gaussian_mixture import GaussianMixtureVQ
from .parts import Objective, Precision, Variance

_QUANTIZERS: dict[str, type[GaussianMixtureVQ]] = {"GaussianMixtureVQ": GaussianMixtureVQ}


def from_config(config: dict[str, Any]) -> Quantizer:
    """Build an untrained quantizer from the dictionary that its ``to_config`` made.

    Raises:
        ValueError: an unknown type, or arguments that it does not take.
    """
    kind = _QUANTIZERS.get(config.get("type", ""))
    if kind is None:
        raise ValueError(f"unknown quantizer type {config.get('type')!r}; known: {', '.join(_QUANTIZERS)}")
    try:
        return kind.from_config(config)
    except TypeError as error:
        raise ValueError(
            f"{config['type']}: {error}; does the file come from another version of gmvq?"
        ) from error


__all__ = ["GaussianMixtureVQ", "Objective", "Precision", "Quantizer", "Variance", "from_config"]

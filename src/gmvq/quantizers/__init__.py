"""The quantizer layers, one contract: latents (..., D) in, ``QuantizerOutput`` out."""

from __future__ import annotations

from typing import Any

from .base import Quantizer
from .channels_first import ChannelsFirst, mask_from_lengths
from .gaussian_mixture import GaussianMixtureVQ
from .grouped import GroupedGMVQ
from .parts import Objective, Precision, Variance
from .pyramid import PyramidGMVQ
from .ragged import RaggedGMVQ
from .residual import ResidualGMVQ
from .resize import Fit, Resized, resize_codebook

_QUANTIZERS: dict[str, type[GaussianMixtureVQ | ResidualGMVQ | GroupedGMVQ | PyramidGMVQ]] = {
    kind.__name__: kind for kind in (GaussianMixtureVQ, ResidualGMVQ, GroupedGMVQ, PyramidGMVQ, RaggedGMVQ)
}


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


__all__ = [
    "ChannelsFirst",
    "Fit",
    "GaussianMixtureVQ",
    "GroupedGMVQ",
    "Objective",
    "Precision",
    "PyramidGMVQ",
    "Quantizer",
    "RaggedGMVQ",
    "ResidualGMVQ",
    "Resized",
    "Variance",
    "from_config",
    "mask_from_lengths",
    "resize_codebook",
]

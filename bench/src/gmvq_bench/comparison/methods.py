"""From a run's description to its quantizer: GM-VQ with its parts, or a baseline."""

from __future__ import annotations

from typing import Any

from gmvq.quantizers import GaussianMixtureVQ
from gmvq.quantizers.base import Quantizer
from gmvq.quantizers.config import part_from_dict

from ..rivals import build_baseline

OURS = "gm-vq"


def build_quantizer(run: dict[str, Any]) -> Quantizer:
    """The untrained quantizer that a run describes.

    Raises:
        ValueError: an unknown quantizer or option, or a size that the method does not have.
    """
    name, dim, codebook_size, options = (run[k] for k in ("quantizer", "dim", "codebook_size", "options"))
    if name != OURS:
        return build_baseline(name, dim, codebook_size, **options)
    parts = {key: part_from_dict(value) for key, value in options.items()}
    try:
        return GaussianMixtureVQ(dim, codebook_size, **parts)
    except TypeError as error:
        raise ValueError(f"{OURS}: {error}") from error

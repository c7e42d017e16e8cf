"""From a run's description to its quantizer: GM-VQ with its parts, or a baseline."""

from __future__ import annotations

from typing import Any

from gmvq.quantizers import GaussianMixtureVQ, PyramidGMVQ, Quantizer, RaggedGMVQ, ResidualGMVQ
from gmvq.quantizers.config import part_from_dict

from ..rivals import build_baseline
from ..rivals.base import dress

OURS = "gm-vq"
#: The layer and its compositions by the names that runs have for them.
_OURS: dict[str, Any] = {
    OURS: GaussianMixtureVQ,
    f"{OURS}, levels": ResidualGMVQ,
    f"{OURS}, pyramid": PyramidGMVQ,
    f"{OURS}, ragged": RaggedGMVQ,
}


def build_quantizer(run: dict[str, Any]) -> Quantizer:
    """The untrained quantizer that a run describes."""
    name, dim, codebook_size, options = (run[k] for k in ("quantizer", "dim", "codebook_size", "options"))
    if name not in _OURS:
        rival = build_baseline(name, dim, codebook_size, **options)
        return dress(rival) if run.get("dress") else rival
    parts = {key: part_from_dict(value) for key, value in options.items()}
    try:
        return _OURS[name](dim, codebook_size, **parts)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error

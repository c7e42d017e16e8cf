"""What quantizers made of several mixtures share: terms, schedules, config, and the features that codes live in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import QuantizerOutput
from .config import part_from_dict
from .gaussian_mixture import GaussianMixtureVQ

#: Terms that add up over parts; of all others the mean is meant.
_ADDITIVE = ("kl_aggregate", "kl_conditional", "latent", "conditional_entropy", "aggregate_entropy")


def level_terms(outs: Sequence[QuantizerOutput]) -> dict[str, Tensor]:
    """Terms of the whole, nats per latent position where they are nats, and the perplexity of each part by number."""
    terms: dict[str, Tensor] = {}
    for name in outs[0].terms:
        values = torch.stack([out.terms[name] for out in outs])
        terms[name] = values.sum() if name in _ADDITIVE else values.mean()
    return terms | {f"perplexity/{i}": out.terms["perplexity"] for i, out in enumerate(outs, start=1)}


def progress_of_all(parts: Sequence[GaussianMixtureVQ], progress: float) -> None:
    """Advance the schedules of every part."""
    for part in parts:
        part.set_progress(progress)


def coded_features(parts: Sequence[GaussianMixtureVQ], dim: int) -> int:
    """Over how many of D features the error of quantization is spread: those that the codebooks span, at most D."""
    return min(sum(part.codebook_dim for part in parts), dim)


def layers_from_config(config: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments from a config: parts built, ``type`` left out."""
    return {key: part_from_dict(value) for key, value in config.items() if key != "type"}

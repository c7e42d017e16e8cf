"""The second stage: distributions over the tokens of a tokenizer, to generate from, to measure and to compress with."""

from __future__ import annotations

from .coding import compress, decompress
from .data import TokenDataModule
from .filters import Filters
from .fitting import fit_prior
from .latents import decode, mixture_indices
from .module import PriorModule
from .prior import TokenPrior
from .spec import TokenSpec

__all__ = [
    "Filters",
    "PriorModule",
    "TokenDataModule",
    "TokenPrior",
    "TokenSpec",
    "compress",
    "decode",
    "decompress",
    "fit_prior",
    "mixture_indices",
]

"""The second stage: distributions over the tokens of a tokenizer, to generate from, to measure and to compress with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .coding import compress, decompress
    from .data import TokenDataModule
    from .filters import Filters
    from .fitting import fit_prior
    from .latents import decode, mixture_indices
    from .module import PriorModule
    from .prior import TokenPrior
    from .spec import TokenSpec

_WHERE = {
    "Filters": "filters",
    "PriorModule": "module",
    "TokenDataModule": "data",
    "TokenPrior": "prior",
    "TokenSpec": "spec",
    "compress": "coding",
    "decode": "latents",
    "decompress": "coding",
    "fit_prior": "fitting",
    "mixture_indices": "latents",
}

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
__getattr__, __dir__ = on_first_use(__name__, _WHERE, "prior")

"""Every composition of mixtures, by name: levels, groups, heads, scales and maps; and latents with masks for them."""

from __future__ import annotations

from typing import Any

import torch
from quantizer_cases import move
from torch import Tensor

from gmvq import (
    GaussianMixtureVQ,
    GroupedGMVQ,
    GumbelSoftmax,
    PyramidGMVQ,
    RaggedGMVQ,
    ResidualGMVQ,
    Variance,
)
from gmvq.functional.schedules import Constant
from gmvq.quantizers import Quantizer

D, K, B = 8, 6, 4
SPATIAL = {"none": (), "1d": (7,), "2d": (3, 5), "3d": (2, 3, 4)}

#: name -> (class, its options)
COMPOSITIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "projected": (GaussianMixtureVQ, {"codebook_dim": 3}),
    "residual": (ResidualGMVQ, {"num_quantizers": 3, "codebook_dim": None}),
    "residual, projected": (ResidualGMVQ, {"num_quantizers": 3, "codebook_dim": 3}),
    "residual, shared": (ResidualGMVQ, {"num_quantizers": 3, "shared_codebook": True, "codebook_dim": 3}),
    "residual, dropout": (ResidualGMVQ, {"num_quantizers": 3, "level_dropout": True}),
    "residual, shared, dropout": (
        ResidualGMVQ,
        {"num_quantizers": 3, "shared_codebook": True, "level_dropout": True, "min_levels": 2},
    ),
    "residual, beam": (ResidualGMVQ, {"num_quantizers": 3, "beam": 3}),
    "residual, shared, beam": (ResidualGMVQ, {"num_quantizers": 3, "shared_codebook": True, "beam": 2}),
    "residual, sizes": (ResidualGMVQ, {"codebook_size": [6, 4, 3], "codebook_dim": 3}),
    "grouped": (GroupedGMVQ, {"groups": 2, "codebook_dim": None}),
    "grouped residual": (GroupedGMVQ, {"groups": 2, "num_quantizers": 3}),
    "grouped residual, beam, dropout": (
        GroupedGMVQ,
        {"groups": 2, "codebook_size": [6, 3], "beam": 2, "level_dropout": True},
    ),
    "heads of levels": (GroupedGMVQ, {"groups": 2, "num_quantizers": 2, "shared_codebook": True}),
    "grouped, projected": (GroupedGMVQ, {"groups": 2, "codebook_dim": 3}),
    "pyramid": (PyramidGMVQ, {"scales": 3}),
    "pyramid, projected": (PyramidGMVQ, {"scales": 2, "codebook_dim": 3}),
    "pyramid, sizes": (PyramidGMVQ, {"codebook_size": [3, 6, 4], "shared_codebook": False}),
    "ragged": (RaggedGMVQ, {"scales": 3}),
    "ragged, projected": (RaggedGMVQ, {"scales": 2, "codebook_dim": 3, "units": "standardized"}),
    "heads": (GroupedGMVQ, {"groups": 4, "shared_codebook": True}),
    "heads, projected": (GroupedGMVQ, {"groups": 2, "shared_codebook": True, "codebook_dim": 3}),
}


def build(
    name: str, *, noise: float = 0.0, started: bool = True, dtype: torch.dtype = torch.float64, **more: Any
) -> Quantizer:
    """A training quantizer on all codes, started on data and moved off the optimum; without noise by default."""
    torch.manual_seed(3)
    kind, options = COMPOSITIONS[name]
    estimator = GumbelSoftmax(temperature=Constant(0.7), noise=Constant(noise))
    sizes = {"codebook_size": K} | options | more
    built = kind(D, estimator=estimator, variance=Variance(noise=Constant(noise)), support=None, **sizes).to(
        dtype
    )
    if started:
        built.init_codebook(latents((64,), seed=5, dtype=dtype))
        move(built)
    return built


def latents(lead: tuple[int, ...], *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, D, generator=generator, dtype=torch.float64).to(dtype)


def some(lead: tuple[int, ...]) -> Tensor:
    """A mask with a third of the positions off."""
    return torch.arange(torch.Size(lead).numel()).reshape(lead) % 3 != 1


def masked_first(built: Quantizer, spatial: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    lead = (B, *spatial)
    return latents(lead), some(lead)


def index_shape(built: Quantizer) -> tuple[int, ...]:
    return getattr(built, "index_shape", ())

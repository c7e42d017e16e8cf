"""Small priors with weights away from their start, so that their distributions are not flat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="the prior needs the extra 'prior'")

from gmvq.prior import TokenPrior, TokenSpec


def make_prior(spec: TokenSpec, kind: Any = "causal", spread: float = 0.3, **options: Any) -> TokenPrior:
    """The same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        prior = TokenPrior(spec, kind, **options)
        for parameter in (
            prior.network.head,
            prior.network.places.weight,
            prior.network.body.embed_tokens.weight,
        ):
            torch.nn.init.normal_(parameter, std=spread)
    return prior.eval()


@pytest.fixture
def build() -> Callable[..., TokenPrior]:
    return make_prior


def every_image(spec: TokenSpec) -> Tensor:
    """All K^L images, (K^L, *shape)."""
    codes = torch.arange(spec.codebook_size)
    return spec.indices(torch.cartesian_prod(*[codes] * spec.length) + spec.offsets(codes.device))

"""``LatentModel.of`` on the library's own layer: bounds read the same codes as the layer's eval forward."""

from __future__ import annotations

import pytest
import torch

from gmvq.objectives import (
    GaussianLikelihood,
    LatentModel,
    MixtureQuantizer,
    albo,
    elbo,
    importance_weighted_bound,
)
from gmvq.quantizers.gaussian_mixture import GaussianMixtureVQ
from gmvq.quantizers.parts import Variance


@pytest.mark.parametrize("kind", ["adaptive", "fixed", "learned", "none"])
def test_bounds_of_the_layer_are_finite_and_ordered(kind) -> None:
    torch.manual_seed(0)
    layer = GaussianMixtureVQ(dim=4, codebook_size=8, variance=Variance(kind=kind))
    if not isinstance(layer, MixtureQuantizer):
        pytest.skip("the layer has no log_weights / standardized / unstandardized / code_log_variance yet")
    latents = 3.0 + 0.1 * torch.randn(6, 5, 4)
    layer(latents)
    layer.eval()
    target = latents.flatten(1)
    likelihood = GaussianLikelihood(0.1)

    def decode(raw: torch.Tensor) -> torch.Tensor:
        return raw.flatten(1)

    model = LatentModel.of(layer).in_float64()
    assert model.discrete == (kind == "none")
    z = layer.standardized(latents).flatten(0, 1).double()
    code = model.log_responsibilities(z).argmax(-1)
    out = layer(latents)
    assert torch.equal(code, out.indices.flatten())
    torch.testing.assert_close(layer.unstandardized(layer.codebook[code]).view_as(latents), out.quantized)

    lower = elbo(layer, latents, target, decode, likelihood, samples=4)
    aggregated = albo(layer, latents, target, decode, likelihood, samples=4)
    weighted = importance_weighted_bound(layer, latents, target, decode, likelihood, samples=16)
    for values in (lower.value, aggregated.value, weighted):
        assert values.shape == (6,)
        assert torch.isfinite(values).all()
    assert aggregated.categorical.mean() <= lower.categorical.mean()
    if kind == "none":
        torch.testing.assert_close(lower.latent, torch.zeros_like(lower.latent))

"""``LatentModel.of`` on the library's own layer: bounds read the same codes as the layer's eval forward."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize("discrete", [False, True])
def test_bounds_of_the_layer_are_finite_and_ordered(discrete) -> None:
    torch.manual_seed(0)
    layer = GaussianMixtureVQ(dim=4, codebook_size=8)
    assert isinstance(layer, MixtureQuantizer)
    latents = 3.0 + 0.1 * torch.randn(6, 5, 4)
    layer.init_codebook(latents)
    layer.eval()
    target = latents.flatten(1)
    likelihood = GaussianLikelihood(0.1)

    def decode(raw: torch.Tensor) -> torch.Tensor:
        return raw.flatten(1)

    model = LatentModel.of(layer, discrete=discrete).in_float64()
    assert model.discrete == discrete
    z = layer.standardized(latents).flatten(0, 1).double()
    code = model.log_responsibilities(z).argmax(-1)
    out = layer(latents)
    assert torch.equal(code, out.indices.flatten())
    torch.testing.assert_close(layer.unstandardized(layer.codebook[code]).view_as(latents), out.quantized)

    lower = elbo(model, latents, target, decode, likelihood, samples=4)
    aggregated = albo(model, latents, target, decode, likelihood, samples=4)
    weighted = importance_weighted_bound(model, latents, target, decode, likelihood, samples=16)
    for values in (lower.value, aggregated.value, weighted):
        assert values.shape == (6,)
        assert torch.isfinite(values).all()
    assert aggregated.categorical.mean() <= lower.categorical.mean()
    if discrete:
        torch.testing.assert_close(lower.latent, torch.zeros_like(lower.latent))


@pytest.mark.parametrize("units", ["standardized", "latents"])
def test_the_bounds_of_a_layer_hold_in_either_unit(units, monkeypatch) -> None:
    """x = read(z) + noise, with p(x) by enumeration: densities are of z, so they need no Jacobian of the scale."""
    torch.manual_seed(0)
    layer = GaussianMixtureVQ(dim=2, codebook_size=4, units=units)
    monkeypatch.setattr(
        layer, "code_log_variance", lambda distance: torch.full_like(distance, 2 * math.log(0.5))
    )
    latents = 3.0 + 7.0 * torch.randn(64, 1, 2)
    layer.init_codebook(latents)
    layer.eval()
    with torch.no_grad():
        layer.log_precision.fill_(-2 * math.log(0.5))
        factor = float(layer.scale) if units == "latents" else 1.0  # of what the decoder reads by z
        target = layer.decoder_units(latents)[:, 0] + 0.8 * factor * torch.randn(64, 2)
        deviation = factor * math.sqrt(0.8**2 + 0.5**2)
        distance = (target[:, None] - layer.unstandardized(layer.codebook)).square().sum(-1)
        log_normal = -0.5 * distance / deviation**2 - math.log(2 * math.pi * deviation**2)
        evidence = (layer.log_weights() + log_normal).logsumexp(-1).double()
        arguments = (layer, latents, target, lambda read: read.flatten(1), GaussianLikelihood(0.8 * factor))
        assert elbo(*arguments, samples=400).value.mean() < evidence.mean()
        close = importance_weighted_bound(*arguments, samples=10_000)
    torch.testing.assert_close(close, evidence, atol=0.2, rtol=0)
    torch.testing.assert_close(close.mean(), evidence.mean(), atol=0.02, rtol=0)

"""Every value that the layer reports equals its formula written out over all positions and codes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from quantizer_cases import KINDS, D, Mixture, kl, latents, layer

CHOICES = [
    {
        "per_feature": per_feature,
        "mixture_weights": weights,
        "sharpening": sharpening,
        "standardize": standardize,
    }
    for per_feature in (False, True)
    for weights in ("uniform", "learned")
    for sharpening, standardize in ((1.0, True), (2.5, False))
]


@pytest.mark.parametrize("choice", CHOICES)
def test_posterior_is_that_of_the_mixture(choice) -> None:
    built, x = layer(**choice), latents()
    mixture = Mixture.of(built, x)
    torch.testing.assert_close(built.posterior_logits(x), mixture.q.log())
    torch.testing.assert_close(built.log_weights(), mixture.prior.log())
    assert torch.equal(built.eval()(x).indices, mixture.q.argmax(-1))


def test_posterior_takes_any_leading_shape_and_sums_to_one() -> None:
    built, x = layer(), latents()
    log_q = built.posterior_logits(x.view(2, 3, 2, D))
    torch.testing.assert_close(log_q.view(12, -1), built.posterior_logits(x))
    torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(2, 3, 2, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False])
def test_log_variance_is_that_of_the_chosen_code(training) -> None:
    built, x = layer().train(training), latents()
    out, mixture = built(x), Mixture.of(built, x)
    chosen = mixture.code_variance(built).gather(-1, out.indices[:, None]).squeeze(-1)
    torch.testing.assert_close(out.log_variance, chosen.log())


def test_code_log_variance_covers_all_codes() -> None:
    built, x = layer(), latents()
    mixture = Mixture.of(built, x)
    ours = built.code_log_variance(mixture.distance).expand_as(mixture.distance)
    expected = mixture.code_variance(built).log()
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("limit", [math.inf, 0.05])
def test_sample_has_the_mean_and_variance_of_the_mixed_code(limit) -> None:
    """z = sum_c r_c mu_c + noise sqrt(v) eps, v = sum_c r_c s_c^2, by the moments of many samples of one latent;
    v of an adaptive variance is at most ``limit`` / w."""
    built = layer(sample_noise=0.5, sigma=0.8)
    built.variance = dataclasses.replace(built.variance, noise_limit=limit)
    x = latents(1).expand(40_000, D)
    torch.manual_seed(0)
    samples, mixture = built.standardized(built(x).quantized).detach(), Mixture.of(built, x[:1])
    mean = (mixture.weights @ built.codebook)[0]
    variance = (mixture.weights * mixture.code_variance(built)).sum()
    largest = limit * (-built.log_precision).exp().mean() / built.sharpening
    assert math.isinf(limit) or bool(variance > largest)
    variance = variance.minimum(largest)
    variance = 0.5**2 * variance
    bound = 5.0 * (variance / len(x)).sqrt().item()
    torch.testing.assert_close(samples.mean(0), mean, atol=bound, rtol=0.0)
    torch.testing.assert_close(samples.var(0), variance.expand(D), rtol=5.0 * math.sqrt(2 / len(x)), atol=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_feature", [False, True])
def test_nats_are_the_formula_of_the_kind(kind, per_feature) -> None:
    built = layer(kind=kind, per_feature=per_feature, mixture_weights="learned", gamma=0.7, beta=1.3)
    x = latents()
    out, mixture = built(x), Mixture.of(built, x)
    mixed = (mixture.weights * mixture.code_variance(built)).sum(-1)
    latent = mixture.latent(mixed, literal=kind == "literal")
    aggregated, conditional = kl(mixture.q.mean(0), mixture.prior), kl(mixture.q, mixture.prior).mean()
    categorical = conditional if kind == "elbo" else aggregated
    torch.testing.assert_close(out.nats, (0.7 * latent + 1.3 * categorical).to(out.nats))
    torch.testing.assert_close(out.loss, out.nats)
    torch.testing.assert_close(out.terms["latent"], latent.detach())


@pytest.mark.parametrize("training", [True, False])
def test_terms_are_their_definitions(training) -> None:
    built, x = layer(mixture_weights="learned", temperature=0.6).train(training), latents()
    out, mixture = built(x), Mixture.of(built, x)
    q, qbar = mixture.q.detach(), mixture.q.detach().mean(0)
    counts = torch.bincount(out.indices, minlength=built.codebook_size).double() / len(x)
    used = counts[counts > 0]
    weights = mixture.weights if training else torch.nn.functional.one_hot(out.indices, built.codebook_size)
    mixed = (weights * mixture.code_variance(built)).sum(-1)
    expected = {
        "kl_aggregate": kl(qbar, mixture.prior),
        "kl_conditional": kl(q, mixture.prior).mean(),
        "latent": mixture.latent(mixed, literal=False),
        "conditional_entropy": -(q * q.log()).sum(-1).mean(),
        "aggregate_entropy": -(qbar * qbar.log()).sum(),
        "perplexity": (-(used * used.log()).sum()).exp(),
        "usage": (counts > 0).double().mean(),
        "scale": built.scale.squeeze(),
        "precision": built.log_precision.exp().squeeze(),
        "variance": mixed.mean(),
        "temperature": torch.tensor(0.6, dtype=torch.float64),
    }
    assert set(expected) <= set(out.terms)
    for name, value in expected.items():
        torch.testing.assert_close(
            out.terms[name], value.detach(), msg=lambda text, name=name: f"{name}: {text}"
        )
        assert not out.terms[name].requires_grad


@pytest.mark.parametrize("weights", ["uniform", "learned"])
def test_conditional_kl_is_information_plus_aggregate_kl(weights) -> None:
    terms = layer(mixture_weights=weights)(latents()).terms
    information = terms["aggregate_entropy"] - terms["conditional_entropy"]
    torch.testing.assert_close(terms["kl_conditional"], information + terms["kl_aggregate"])
    assert 0.0 < information < math.log(5)

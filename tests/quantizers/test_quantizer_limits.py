"""Limits: nearest-neighbour VQ, one code, sharp posteriors, latents without spread."""

from __future__ import annotations

import math

import pytest
import torch
from quantizer_cases import KINDS, Mixture, kl, latents, layer, run

from gmvq import GaussianMixtureVQ, GumbelSoftmax, Objective, StraightThroughGumbel
from gmvq.functional.divergences import code_counts
from gmvq.functional.schedules import Constant
from gmvq.quantizers.evidence import Batch


@pytest.mark.parametrize("estimator", [GumbelSoftmax, StraightThroughGumbel])
def test_cold_and_without_noise_training_is_nearest_neighbour_vq(estimator) -> None:
    built, x = layer(estimator=estimator, temperature=1e-9), latents(40)
    evaluation, training = built.eval()(x), built.train()(x)
    codes = built.unstandardized(built.codebook.detach())
    nearest = torch.cdist(x, codes).argmin(-1)
    assert torch.equal(training.indices, nearest)
    assert torch.equal(evaluation.indices, nearest)
    torch.testing.assert_close(training.quantized, codes[nearest])
    torch.testing.assert_close(evaluation.quantized, codes[nearest], rtol=0.0, atol=0.0)
    torch.testing.assert_close(training.nats, evaluation.nats)


def test_cold_samples_with_noise_are_codes_drawn_from_the_posterior() -> None:
    built = layer(temperature=1e-6, gumbel_noise=1.0)
    x = latents(1).expand(20_000, -1)
    torch.manual_seed(0)
    sample = built(x).quantized
    distance, drawn = torch.cdist(sample, built.unstandardized(built.codebook)).min(-1)
    assert distance.max() < 1e-3
    frequency = torch.bincount(drawn, minlength=built.codebook_size) / len(x)
    q = built.posterior_logits(x[0]).exp()
    bound = 5.0 * (q * (1 - q) / len(x)).sqrt() + 1e-4
    assert ((frequency - q).abs() < bound).all()


def test_sharpening_makes_the_posterior_one_hot_and_leaves_the_component_alone() -> None:
    soft, sharp, x = layer(sharpening=1.0, beta=0.0), layer(sharpening=1e6, beta=0.0), latents()
    torch.testing.assert_close(
        sharp.posterior_logits(x).exp().max(-1).values, torch.ones(12, dtype=torch.float64)
    )
    torch.testing.assert_close(sharp(x).terms["precision"], soft(x).terms["precision"])
    torch.testing.assert_close(sharp.eval()(x).nats, soft.eval()(x).nats)


@pytest.mark.parametrize(("dim", "counted"), [(2, 1.0), (4, 2.0), (8, 4.0), (64, 4.0)])
def test_w_counts_four_features_at_most_by_default(dim: int, counted: float) -> None:
    layer = GaussianMixtureVQ(dim, 8)
    assert float(layer.sharpening) == pytest.approx(counted / dim)
    layer.set_progress(0.5)
    assert float(layer.sharpening) == pytest.approx(counted / dim)


@pytest.mark.parametrize("kind", KINDS)
def test_one_code_is_the_gaussian_case(kind) -> None:
    """K = 1: the posterior is certain, all categorical terms vanish and the Gaussian term is all there is."""
    built, x = layer(codebook_size=1, kind=kind, gamma=1.0, beta=1.0), latents()
    out, mixture = built(x), Mixture.of(built, x)
    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(built.posterior_logits(x), torch.zeros(12, 1, dtype=torch.float64))
    for name in ("kl_aggregate", "kl_conditional", "conditional_entropy", "aggregate_entropy"):
        torch.testing.assert_close(out.terms[name], zero)
    torch.testing.assert_close(out.terms["perplexity"], zero + 1)
    gaussian = mixture.latent(mixture.code_variance(built)[:, 0], literal=kind == "literal")
    torch.testing.assert_close(out.nats, gaussian)
    torch.testing.assert_close(out.quantized, built.unstandardized(built.codebook).expand_as(x))
    assert (out.indices == 0).all()


def test_at_one_hot_posteriors_the_elbo_pays_log_k_per_position() -> None:
    out = layer(sharpening=1e6)(latents())
    torch.testing.assert_close(out.terms["kl_conditional"], torch.tensor(math.log(5), dtype=torch.float64))
    torch.testing.assert_close(out.terms["conditional_entropy"], torch.zeros((), dtype=torch.float64))


def test_codes_at_the_same_point_are_equally_likely() -> None:
    built, x = layer(), latents()
    with torch.no_grad():
        built.codebook.copy_(built.codebook[:1].clone().expand_as(built.codebook))
    torch.testing.assert_close(built.posterior_logits(x).exp(), torch.full((12, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(built(x).terms["kl_aggregate"], torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(kl(torch.full((5,), 0.2), torch.full((5,), 0.2)), torch.zeros(()))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
def test_latents_without_any_spread_stay_finite(value) -> None:
    """Start and second batch on one repeated vector, in float32, where distances are all rounding."""
    torch.manual_seed(0)
    built = GaussianMixtureVQ(4, 6)
    x = torch.full((16, 4), value)
    for _ in range(2):
        out, grads = run(built, x, nats=False)
        for name, tensor in {**grads, **out.terms, "quantized": out.quantized, "nats": out.nats}.items():
            assert torch.isfinite(tensor).all(), name
    evaluated = built.eval()(x).quantized
    torch.testing.assert_close(evaluated, built.decoder_units(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("distinct", [1, 3])
def test_few_latents_start_no_codebook_of_copies(distinct: int) -> None:
    """A first batch without spread, or of fewer points than codes; what comes later is told apart at once."""
    torch.manual_seed(0)
    built = GaussianMixtureVQ(4, 16, start_after=0)
    points = torch.rand(distinct, 4).repeat(64 // distinct, 1)
    for _ in range(2):
        built(points)
    assert built.started
    assert len(torch.unique(built.codebook, dim=0)) == 16
    assert len(built(points).indices.unique()) == distinct
    built(torch.randn(256, 4))
    assert len(built.eval()(torch.randn(256, 4)).indices.unique()) > 4


@pytest.mark.parametrize("kind", ["albo", "elbo", "literal"])
def test_latents_on_their_codewords_stay_finite(kind) -> None:
    """The Gaussian KL is infinite at s = 0: the floor of the variance keeps value and gradient finite."""
    torch.manual_seed(0)
    estimator = StraightThroughGumbel(Constant(1.0), Constant(0.0))
    built = GaussianMixtureVQ(
        4, 6, objective=Objective(kind, Constant(1.0), Constant(1.0)), estimator=estimator
    )
    built.init_codebook(torch.randn(50, 4))
    out, grads = run(built, built.unstandardized(built.codebook).detach())
    assert torch.equal(out.indices, torch.arange(6))
    assert torch.isfinite(out.nats)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


def test_far_latents_stay_finite() -> None:
    built = layer(dtype=torch.float32)
    out, grads = run(built, 1e6 * latents(dtype=torch.float32))
    assert torch.isfinite(out.quantized).all()
    assert torch.isfinite(out.nats)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


def test_counts_go_on_beyond_the_integers_of_float32() -> None:
    """2^24 positions of one code and 8 more: a float32 to which ones are added stays at 2^24."""
    count = (1 << 24) + 8
    ones, indices = torch.ones(count), torch.zeros(count, dtype=torch.int64)
    statistics = Batch.alone(torch.tensor([float(count), 0.0]), indices, ones)
    assert statistics.counts.tolist() == [count, 0]
    assert code_counts(indices, 2).tolist() == code_counts(indices, 2, ones).tolist() == [count, 0]

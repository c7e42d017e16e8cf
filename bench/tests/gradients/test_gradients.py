"""The exact gradient, the moments of estimators about it, and the study."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from reinmax import ReinMax
from torch import Tensor
from torch.testing import assert_close

from gmvq.functional.estimators import GumbelSoftmax, StraightThroughGumbel
from gmvq_bench.gradients import study as gradients
from gmvq_bench.gradients.error import _weights, estimator_error, exact_gradient, joint_codes

B, P, K, D = 3, 2, 4, 5


def _problem(positions: int = P, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits = scale * torch.randn(B, positions, K, dtype=torch.float64)
    return logits, torch.randn(K, D, dtype=torch.float64), torch.randn(B, positions * D, dtype=torch.float64)


def _loss(weight: Tensor):
    """A loss that is no quadratic function of z."""
    return lambda z: (z.flatten(-2).tanh() * weight).sum(-1).square()


def _sampled(logits: Tensor, codebook: Tensor, loss, estimator, temperature: float, count: int) -> Tensor:
    """Plain Monte Carlo gradients, (S, B, P, K)."""
    leaf = logits.expand(count, -1, -1, -1).clone().requires_grad_()
    gumbel = -torch.empty_like(leaf).detach().exponential_().log()
    sample = estimator.sample(leaf, torch.tensor(temperature), gumbel)
    return torch.autograd.grad(loss(sample @ codebook).sum(), leaf)[0]


def test_exact_gradient_is_that_of_the_enumerated_expectation() -> None:
    logits, codebook, weight = _problem()
    leaf = logits.clone().requires_grad_()
    codes = joint_codes(P, K)
    assert codes.shape == (K**P, P)
    q = leaf.softmax(-1)
    losses = _loss(weight)(codebook[codes][:, None].expand(-1, B, -1, -1))
    expected = sum(q[:, 0, i] * q[:, 1, j] * f for (i, j), f in zip(codes.tolist(), losses, strict=True))
    assert isinstance(expected, Tensor)
    value, gradient = exact_gradient(logits, codebook, _loss(weight))
    assert_close(value, expected.detach())
    assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])


def test_exact_gradient_is_the_mean_of_reinforce() -> None:
    logits, codebook, weight = _problem()
    value, gradient = exact_gradient(logits, codebook, _loss(weight))
    draws = 40_000
    codes = torch.distributions.Categorical(logits=logits).sample((draws,))
    gain = _loss(weight)(codebook[codes]) - value
    score = torch.nn.functional.one_hot(codes, K) - logits.softmax(-1)
    samples = gain[..., None, None] * score
    error = (samples.mean(0) - gradient).abs() / (samples.std(0) / math.sqrt(draws))
    assert error.max() < 4.5


def test_codebooks_of_positions_are_taken_per_position() -> None:
    logits, codebook, weight = _problem()
    order = logits.argsort(-1)
    plain = exact_gradient(logits, codebook, _loss(weight))
    permuted = exact_gradient(logits.gather(-1, order), codebook[order], _loss(weight))
    assert_close(permuted[0], plain[0])
    assert_close(permuted[1], plain[1].gather(-1, order))


@pytest.mark.parametrize("estimator", [GumbelSoftmax(), StraightThroughGumbel(), ReinMax()])
def test_moments_are_those_of_plain_sampling(estimator) -> None:
    logits, codebook, weight = _problem()
    error = estimator_error(logits, codebook, _loss(weight), estimator, 0.5, 4000)
    samples = _sampled(logits, codebook, _loss(weight), estimator, 0.5, 40_000)
    mean, variance = samples.mean(0), samples.var(0).sum((-2, -1))
    noise = error.monte_carlo + variance / len(samples)
    assert ((error.exact + error.difference - mean).square().sum((-2, -1)) < 4 * noise).all()
    assert_close(error.variance, variance, rtol=0.1, atol=0.0)
    assert_close(error.bias, error.difference.square().sum((-2, -1)) - error.monte_carlo)


def test_the_metric_gives_norms_in_the_parameters() -> None:
    logits, codebook, weight = _problem()
    jacobian = torch.randn(B, P * K, 7, dtype=torch.float64)
    metric = (jacobian @ jacobian.mT).reshape(B, P, K, P, K)
    error = estimator_error(
        logits,
        codebook,
        _loss(weight),
        GumbelSoftmax(),
        0.5,
        16,
        torch.Generator().manual_seed(0),
        metric=metric,
    )
    through = torch.einsum("bi,bin->bn", error.exact.flatten(1), jacobian)
    assert_close(error.exact_norm, through.norm(dim=-1))
    shift = torch.einsum("bi,bin->bn", error.difference.flatten(1), jacobian)
    assert_close(error.bias + error.monte_carlo, shift.square().sum(-1))


def test_reinmax_is_unbiased_for_quadratic_losses() -> None:
    logits, codebook, weight = _problem(positions=1)

    def quadratic(z: Tensor) -> Tensor:
        return (z.flatten(-2) - weight).square().sum(-1)

    error = estimator_error(logits, codebook, quadratic, ReinMax(), 1.0, 8)
    assert_close(error.difference, torch.zeros_like(error.difference), atol=1e-12, rtol=0.0)
    assert_close(error.relative(error.bias), torch.zeros(B, dtype=torch.float64), atol=1e-12, rtol=0.0)
    biased = estimator_error(logits, codebook, quadratic, StraightThroughGumbel(), 1.0, 8)
    assert (biased.difference.abs().amax((-2, -1)) > 1e-3).all()


@pytest.mark.parametrize("estimator", [GumbelSoftmax(), StraightThroughGumbel(), ReinMax()])
def test_a_one_hot_posterior_has_no_gradient_and_no_error(estimator) -> None:
    _, codebook, weight = _problem()
    logits = torch.zeros(B, P, K, dtype=torch.float64)
    logits[..., 1] = 1e4
    error = estimator_error(logits, codebook, _loss(weight), estimator, 0.5, 16)
    zero = torch.zeros(B, dtype=torch.float64)
    assert_close(error.exact, torch.zeros_like(logits), atol=0, rtol=0)
    for value in (error.exact_norm, error.bias, error.variance):
        assert_close(value, zero, atol=1e-30, rtol=0.0)
    if not isinstance(estimator, ReinMax):  # which keeps 1e-20 of every code
        assert_close(error.relative(error.error), zero, atol=0.0, rtol=0.0)


def test_lower_temperature_trades_bias_for_variance() -> None:
    logits, codebook, weight = _problem()
    errors = [
        estimator_error(logits, codebook, _loss(weight), GumbelSoftmax(), t, 20_000) for t in (2.0, 0.7, 0.2)
    ]
    bias, variance = torch.stack([e.bias for e in errors]), torch.stack([e.variance for e in errors])
    assert (bias.diff(dim=0) < 0).all(), bias
    assert (variance.diff(dim=0) > 0).all(), variance


def test_rare_codes_count() -> None:
    """A code of probability 1e-9 holds most of the relative variance, and plain sampling never meets it."""
    _, codebook, weight = _problem(positions=1)
    logits = torch.tensor([0.0, -20.7, -40.0, -40.0], dtype=torch.float64).expand(B, 1, K)
    error = estimator_error(logits, codebook, _loss(weight), StraightThroughGumbel(), 0.5, 1000)
    plain = _sampled(logits, codebook, _loss(weight), StraightThroughGumbel(), 0.5, 1000)
    assert (error.relative(error.error) > 1e6).all()
    assert (error.error > 10 * (plain - error.exact).square().sum((-2, -1)).mean(0)).all()
    assert_close(_weights(logits, joint_codes(1, K)).sum(0), torch.ones(B, dtype=torch.float64))


def test_the_kernel_is_that_of_the_encoder() -> None:
    """The norm in the metric is the norm of the gradient that autograd gives the encoder's parameters."""
    torch.manual_seed(0)
    model = gradients.GradientTokenizer(gradients.OBJECTIVES["albo"], None).double()
    images = torch.rand(64, 3, 8, 8, dtype=torch.float64)
    model.quantizer.init_codebook(model.encode(images))
    found = gradients.measure(model, images[:2], None, 0)
    norms = found[found.cell == "0.5"]["norm"].tolist()
    logits = model.quantizer.posterior_logits(model.encode(images[:2]))
    loss = gradients._decode_loss(model, images[:2], logits)
    codes = joint_codes(gradients.POSITIONS, gradients.CODES)
    words = model.quantizer.codebook[codes].detach()
    losses = loss(words[:, None].expand(-1, 2, -1, -1)).detach()
    value = (_weights(logits, codes) * losses).sum(0)
    for image in range(2):
        parts = torch.autograd.grad(value[image], list(model.encoder.parameters()), retain_graph=True)
        norm = torch.cat([part.flatten() for part in parts]).norm()
        assert norms[image] == pytest.approx(float(norm))


def test_the_interval_of_correlations() -> None:
    assert gradients.correlation_interval([0.5, 0.5, 0.5])["low"] == pytest.approx(0.5)
    assert gradients.correlation_interval([float("nan")]) == {"mean": 0.0, "low": None, "high": None}


def test_summaries_of_rows_with_a_known_answer() -> None:
    """Errors proportional to exp(-H), twice as large with ALBO; an image without a gradient does not count."""
    entropy = np.array([0.1, 0.2, 0.4, 0.8])
    rows = []
    for objective, factor in (("albo", 2.0), ("elbo", 1.0)):
        for step in (1, 2):
            values = factor * np.exp(-entropy * step)
            frame = pd.DataFrame({"image": range(4), "entropy": entropy * step, "norm": [1.0, 1.0, 1.0, 0.0]})
            for measure in gradients.MEASURES:
                frame[measure] = values
            names = {"objective": objective, "support": "all", "seed": 0, "step": step}
            rows += [frame.assign(cell=cell, **names) for cell in gradients.CELLS]
    found = gradients.summarise(pd.concat(rows))
    one = next(r for r in found["comparisons"] if r["temperature"] == "0.5" and r["support"] == "all")
    assert one["absolute error"]["mean"] == {"mean": pytest.approx(1.0), "half": None}
    assert one["entropy"]["mean"]["mean"] == pytest.approx(0.0)
    assert found["correlations"][0]["spearman"]["mean"] < -0.5


def test_a_short_study() -> None:
    pytest.importorskip("skimage")
    study = gradients.run_study((0,), steps=20, checkpoints=3, images=8, objectives=("albo", "elbo"))
    assert study == json.loads(json.dumps(study, allow_nan=False)), "finite, and JSON-able"
    assert {row["measure"] for row in study["correlations"]} == set(gradients.MEASURES)
    assert {row["support"] for row in study["comparisons"]} == set(gradients.SUPPORTS)
    text = gradients.table(study)
    assert "4 codes" in text
    assert "nan" not in text

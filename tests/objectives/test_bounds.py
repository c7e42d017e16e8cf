"""The bounds against an exactly enumerated linear-Gaussian model, and the figures of docs/mathematics.md."""

from __future__ import annotations

import math

import pytest
import torch
from seeds import seeded
from torch import Tensor

from gmvq.functional.mixture import adaptive_variance
from gmvq.objectives import (
    GaussianLikelihood,
    LatentModel,
    albo,
    elbo,
    importance_weighted_bound,
    information,
)


def copies(tensor: Tensor, count: int) -> Tensor:
    return tensor.repeat_interleave(count, 0)


def mean_and_error(values: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Mean over the copies of each image, and its standard error."""
    values = values.view(images, -1)
    return values.mean(-1), values.std(-1) / math.sqrt(values.shape[1])


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("sharpening", [1.0, 3.0])
def test_elbo_is_its_enumeration_and_bounds_the_evidence(
    make_problem, images_and_latents, discrete, sharpening
) -> None:
    problem = make_problem(discrete=discrete, sharpening=sharpening)
    x, z = images_and_latents(problem, 4)
    many = 4000
    bound = elbo(
        problem.model,
        copies(z, many),
        copies(x, many),
        problem.decode,
        problem.likelihood,
        generator=seeded(),
    )
    mean, error = mean_and_error(bound.log_likelihood, 4)
    exact = problem.expected_log_likelihood(z, x)
    assert ((mean - exact).abs() < 5 * error).all()

    log_q = problem.model.log_responsibilities(z.flatten(0, 1))
    kl = (log_q.exp() * (log_q - problem.model.log_weights)).sum(-1).view(4, -1).sum(-1)
    torch.testing.assert_close(bound.categorical.view(4, -1)[:, 0], kl)
    gaussian = torch.zeros_like(kl)
    if not discrete:
        scale = problem.model.log_variances(z.flatten(0, 1)).mul(0.5).exp()[..., None].expand(-1, -1, 2)
        q = torch.distributions.Normal(problem.model.codebook, scale)
        p = torch.distributions.Normal(problem.model.codebook, (-0.5 * problem.model.log_precision).exp())
        gaussian = (log_q.exp() * torch.distributions.kl_divergence(q, p).sum(-1)).sum(-1)
        gaussian = gaussian.view(4, -1).sum(-1)
    torch.testing.assert_close(bound.latent.view(4, -1)[:, 0], gaussian)
    assert (exact - gaussian - kl <= problem.log_evidence(x)).all()


@pytest.mark.parametrize("discrete", [False, True])
def test_albo_is_the_mean_elbo_plus_information(make_problem, images_and_latents, discrete) -> None:
    problem = make_problem(discrete=discrete)
    x, z = images_and_latents(problem, 40)
    arguments = (problem.model, z, x, problem.decode, problem.likelihood)
    lower = elbo(*arguments, generator=seeded(), samples=3)
    aggregated = albo(*arguments, generator=seeded(), samples=3)
    code_information = information(problem.model.log_responsibilities(z.flatten(0, 1)))
    assert code_information > 0.1
    torch.testing.assert_close(
        aggregated.value.mean(), lower.value.mean() + problem.positions * code_information
    )


def test_proper_albo_minus_log_codebook_size_bounds_the_evidence(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 200)
    bound = albo(problem.model, z, x, problem.decode, problem.likelihood)
    exact = (problem.expected_log_likelihood(z, x) - bound.latent - bound.categorical).mean()
    assert exact - problem.positions * math.log(3) <= problem.log_evidence(x).mean()


@pytest.mark.parametrize("discrete", [False, True])
def test_importance_weighted_bound_lies_between_elbo_and_evidence(
    make_problem, images_and_latents, discrete
) -> None:
    problem = make_problem(discrete=discrete, positions=1)
    x, z = images_and_latents(problem, 3)
    many = 3000
    terms = elbo(problem.model, z, x, problem.decode, problem.likelihood)
    below = problem.expected_log_likelihood(z, x) - terms.latent - terms.categorical
    arguments = (problem.model, copies(z, many), copies(x, many), problem.decode, problem.likelihood)
    single, error = mean_and_error(importance_weighted_bound(*arguments, samples=1, generator=seeded()), 3)
    assert ((single - below).abs() < 5 * error).all(), "one sample is the ELBO"
    previous, slack = below, 0.0
    for samples in (2, 8, 32, 128):
        value, error = mean_and_error(
            importance_weighted_bound(*arguments, samples=samples, generator=seeded(samples)), 3
        )
        assert (value > previous - 3 * (error + slack)).all(), "it rises with the number of samples"
        assert (value < problem.log_evidence(x) + 4 * error).all(), "and stays below the evidence"
        previous, slack = value, error
    gap_closed = (previous - below) / (problem.log_evidence(x) - below)
    assert (gap_closed > (0.95 if discrete else 0.4)).all()


def test_importance_weights_are_constant_where_q_is_the_posterior() -> None:
    """K = 1, x on the decoded codeword, s_c^2 the posterior variance: every sample gives log p(x) exactly."""
    w, sigma_x, a = 4.0, 0.5, 1.5
    posterior_variance = 1.0 / (w + a**2 / sigma_x**2)
    model = LatentModel(
        torch.tensor([[0.3]], dtype=torch.float64),
        torch.tensor([w], dtype=torch.float64).log(),
        torch.zeros(1, dtype=torch.float64),
        lambda d: torch.full_like(d, math.log(posterior_variance)),
    )
    x, z = torch.tensor([[0.3 * a]], dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    exact = torch.distributions.Normal(0.3 * a, math.sqrt(sigma_x**2 + a**2 / w)).log_prob(x[:, 0])
    likelihood = GaussianLikelihood(sigma_x).double()
    for samples in (1, 5):
        bound = importance_weighted_bound(
            model, z, x, lambda v: a * v.flatten(1), likelihood, samples=samples
        )
        torch.testing.assert_close(bound, exact)


def test_single_code_is_the_gaussian_case(make_problem, images_and_latents) -> None:
    problem = make_problem(codebook_size=1)
    x, z = images_and_latents(problem, 5)
    arguments = (problem.model, z, x, problem.decode, problem.likelihood)
    bound = elbo(*arguments, generator=seeded())
    torch.testing.assert_close(bound.categorical, torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(bound.value, albo(*arguments, generator=seeded()).value)
    variance = problem.model.log_variances(z.flatten(0, 1)).exp()
    q = torch.distributions.Normal(0.0, variance.sqrt().expand(-1, 2))
    p = torch.distributions.Normal(0.0, (-0.5 * problem.model.log_precision).exp())
    expected = torch.distributions.kl_divergence(q, p).sum(-1).view(5, -1).sum(-1)
    torch.testing.assert_close(bound.latent, expected)


def separated_problem(scale: float) -> tuple[LatentModel, Tensor, Tensor, GaussianLikelihood, Tensor]:
    """Three codes at -1, 0, 1; six images at half a standard deviation from a code; s_x = s_z = scale."""
    codebook = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    model = LatentModel(
        codebook,
        torch.tensor([-2 * math.log(scale)], dtype=torch.float64),
        torch.full((3,), -math.log(3), dtype=torch.float64),
        lambda d: adaptive_variance(d, 1).log(),
    )
    x = torch.cat([codebook - 0.5 * scale, codebook + 0.5 * scale])
    mixture = torch.distributions.Normal(codebook[:, 0], math.sqrt(2.0) * scale)
    evidence = (mixture.log_prob(x) - math.log(3)).logsumexp(-1)
    return model, x[:, None], x, GaussianLikelihood(scale).double(), evidence


def test_literal_albo_exceeds_the_evidence() -> None:
    """The figures of docs/mathematics.md, "Why the literal ALBO is no bound"."""
    model, z, x, likelihood, evidence = separated_problem(0.1)
    arguments = (model, z, x, lambda v: v.flatten(1), likelihood)
    # E log p(x|z) in closed form: codes so far apart that q(c|x) is one-hot, and s_c^2 = 0.00125.
    fit = -0.5 * math.log(2 * math.pi * 0.01) - (0.0025 + 0.00125) / 0.02

    def value(bound) -> float:
        return float((fit - bound.latent - bound.categorical).mean())

    figures = {
        "evidence": float(evidence.mean()),
        "elbo": value(elbo(*arguments)),
        "albo": value(albo(*arguments)),
        "literal": value(albo(*arguments, literal=True)),
    }
    expected = {"evidence": -0.1240, "elbo": -0.5047, "albo": 0.5939, "literal": 2.5173}
    torch.testing.assert_close(figures, expected, atol=5e-5, rtol=0.0)
    assert figures["albo"] - math.log(3) <= figures["evidence"] < figures["literal"] - math.log(3)
    # The Monte Carlo estimate agrees with the closed form.
    many = tuple(copies(t, 4000) for t in (z, x))
    sampled = elbo(model, *many, arguments[3], likelihood, generator=seeded()).log_likelihood
    mean, error = mean_and_error(sampled, 6)
    assert ((mean - fit).abs() < 5 * error).all()


def test_gap_of_the_literal_albo_is_unbounded() -> None:
    """Shrinking s_x = s_z tenfold adds log 10 to the gap of the literal form, nothing to the proper."""
    gaps = {}
    for scale in (0.1, 0.01, 0.001):
        model, z, x, likelihood, evidence = separated_problem(scale)
        arguments = (model, z, x, lambda v: v.flatten(1), likelihood)
        for literal in (False, True):
            bound = albo(*arguments, literal=literal)
            fit = -0.5 * math.log(2 * math.pi) - math.log(scale) - 0.1875
            gaps[scale, literal] = float((fit - bound.latent - bound.categorical - evidence).mean())
    for wide, narrow in ((0.1, 0.01), (0.01, 0.001)):
        assert gaps[narrow, True] - gaps[wide, True] == pytest.approx(math.log(10), abs=1e-6)
        assert gaps[narrow, False] == pytest.approx(gaps[wide, False], abs=1e-6)

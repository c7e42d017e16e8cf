"""The one pass over N x K that the bounds share: its terms, its draws, and both ELBOs out of one pass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from seeds import seeded

from gmvq.functional.divergences import categorical_kl, entropy, gaussian_cross_entropy, gaussian_kl
from gmvq.objectives import AggregatePosterior, LatentModel, elbo
from gmvq.objectives.bounds import elbo_with_and_without_noise


@pytest.mark.parametrize("block", [1, 7, 100])
def test_terms_are_the_means_of_the_divergences(
    make_problem: Any, images_and_latents: Any, block: int
) -> None:
    model: LatentModel = make_problem(codebook_size=5).model
    z = images_and_latents(make_problem(codebook_size=5), 12)[1].flatten(0, 1)
    found = list(model.blocks(z, block))
    assert len(found) == -(-24 // block)
    q = model.log_responsibilities(z).exp()
    variance = model.log_variances(z).exp()
    expected = {
        "q": q,
        "entropy": entropy(q),
        "categorical": categorical_kl(q, model.log_weights),
        "gaussian_kl": (q * gaussian_kl(variance, model.log_precision, model.dim)).sum(-1),
        "gaussian_cross_entropy": (q * gaussian_cross_entropy(variance, model.log_precision, model.dim)).sum(
            -1
        ),
    }
    for name, value in expected.items():
        torch.testing.assert_close(torch.cat([getattr(terms, name) for terms in found]), value, msg=name)


def test_a_code_of_weight_zero_counts_for_nothing(make_problem: Any, images_and_latents: Any) -> None:
    problem = make_problem()
    z = images_and_latents(problem, 6)[1].flatten(0, 1)
    weights = torch.tensor([-math.inf, math.log(0.5), math.log(0.5)], dtype=torch.float64)
    without = dataclasses.replace(problem.model, log_weights=weights)
    rest = dataclasses.replace(
        problem.model, codebook=problem.model.codebook[1:], log_weights=weights[1:].clone()
    )
    uniforms = torch.rand(12, 50, generator=seeded(), dtype=torch.float64)
    (mine,), (same,) = (list(model.blocks(z, 100, uniforms)) for model in (without, rest))
    for name in ("entropy", "categorical", "gaussian_kl", "gaussian_cross_entropy"):
        torch.testing.assert_close(getattr(mine, name), getattr(same, name), msg=name)
    torch.testing.assert_close(mine.draws.code, same.draws.code + 1)


def test_draws_follow_the_posterior(make_problem: Any, images_and_latents: Any) -> None:
    problem = make_problem(codebook_size=5)
    z = images_and_latents(problem, 2)[1].flatten(0, 1)
    draws = problem.model.draw(z, 40_000, seeded())
    log_q = problem.model.log_responsibilities(z)
    shares = torch.nn.functional.one_hot(draws.code, 5).double().mean(1)
    error = (log_q.exp() * (1 - log_q.exp()) / 40_000).sqrt()
    assert ((shares - log_q.exp()).abs() < 5 * error).all()
    torch.testing.assert_close(
        draws.log_ratio, problem.model.log_weights[draws.code] - log_q.gather(1, draws.code)
    )
    assert draws.log_variance is not None
    torch.testing.assert_close(draws.log_variance, problem.model.log_variances(z).gather(1, draws.code))


def test_extreme_uniform_numbers_give_codes_that_exist(make_problem: Any) -> None:
    model = make_problem(codebook_size=4).model
    uniforms = torch.tensor([[0.0, 1.0 - 2**-53]], dtype=torch.float64)
    (terms,) = model.blocks(model.codebook[:1], 10, uniforms)
    assert terms.draws.code.tolist() == [[0, 3]]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_both_elbos_are_those_of_two_calls(
    make_problem: Any, images_and_latents: Any, discrete: bool, masked: bool
) -> None:
    problem = make_problem(discrete=discrete)
    x, z = images_and_latents(problem, 6)
    mask = torch.rand(6, 2, generator=seeded()) < 0.7 if masked else None
    shared: Any = (z, x, problem.decode, problem.likelihood)
    aggregate = AggregatePosterior(3)
    options: Any = {"generator": seeded(1), "mask": mask}
    found = elbo_with_and_without_noise(problem.model, *shared, **options, block=4, aggregate=aggregate)
    options["generator"] = seeded(1)
    silent = dataclasses.replace(problem.model, code_log_variance=None)
    for bound, expected in zip(
        found, (elbo(m, *shared, **options) for m in (problem.model, silent)), strict=True
    ):
        torch.testing.assert_close(dataclasses.astuple(bound), dataclasses.astuple(expected))
    direct = AggregatePosterior(3)
    direct.update(problem.model.log_responsibilities(z.flatten(0, 1) if mask is None else z[mask]))
    torch.testing.assert_close(aggregate.sums, direct.sums)

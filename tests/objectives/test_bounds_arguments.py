"""The bounds of what they may be given: masks, blocks, an aggregate of a whole set, layers, and wrong shapes."""

from __future__ import annotations

import pytest
import torch
from seeds import seeded
from torch import Tensor, nn

from gmvq.functional.mixture import adaptive_variance
from gmvq.objectives import (
    AggregatePosterior,
    LatentModel,
    MixtureQuantizer,
    albo,
    elbo,
    importance_weighted_bound,
)


def test_masked_positions_do_not_count(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 6)
    mask = torch.tensor([True, False]).expand(6, 2).contiguous()
    z_bad = z.masked_fill(~mask[..., None], 1e9)
    seen: list[Tensor] = []

    def decode(latents: Tensor) -> Tensor:
        seen.append(latents)
        return problem.decode(latents)

    masked = albo(problem.model, z_bad, x, decode, problem.likelihood, mask=mask, generator=seeded())
    alone = albo(
        problem.model, z[:, :1], x, lambda v: torch.zeros_like(x), problem.likelihood, generator=seeded()
    )
    torch.testing.assert_close(masked.latent, alone.latent)
    torch.testing.assert_close(masked.categorical, alone.categorical)
    torch.testing.assert_close(seen[0][:, 1], torch.zeros_like(seen[0][:, 1]))
    assert seen[0][:, 0].abs().min() > 0
    value = importance_weighted_bound(
        problem.model, z_bad, x, decode, problem.likelihood, mask=mask, samples=2
    )
    assert torch.isfinite(value).all()


def test_blocks_and_draw_groups_change_nothing(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 9)
    arguments = (problem.model, z, x, problem.decode, problem.likelihood)
    whole, parts = albo(*arguments), albo(*arguments, block=4)
    torch.testing.assert_close(whole.latent, parts.latent)
    torch.testing.assert_close(whole.categorical, parts.categorical)
    assert importance_weighted_bound(*arguments, samples=130).shape == (9,)


def test_aggregate_of_a_whole_set_replaces_the_batch(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 20)
    aggregate = AggregatePosterior(3)
    for rows in z.flatten(0, 1).split(7):
        aggregate.update(problem.model.log_responsibilities(rows))
    whole = albo(problem.model, z, x, problem.decode, problem.likelihood)
    part = albo(problem.model, z[:3], x[:3], problem.decode, problem.likelihood, aggregate=aggregate)
    torch.testing.assert_close(part.categorical, whole.categorical[:3])


class Layer(nn.Module):
    """A stand-in with the attributes that ``LatentModel.of`` reads."""

    def __init__(self, model: LatentModel, per_code: bool = False) -> None:
        super().__init__()
        self.codebook = nn.Parameter(model.codebook.float())
        self.log_precision = model.log_precision.float()
        self.per_code = per_code
        self.pi = model.log_weights.float()
        self.table = torch.tensor([-1.0, -2.0, -3.0])

    def log_weights(self) -> Tensor:
        return self.pi

    def standardized(self, latents: Tensor) -> Tensor:
        return (latents - 5.0) / 3.0

    def unstandardized(self, z: Tensor) -> Tensor:
        return z * 3.0 + 5.0

    def code_log_variance(self, squared_distance: Tensor) -> Tensor:
        if self.per_code:
            return self.table
        return adaptive_variance(squared_distance, self.codebook.shape[1]).log()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_with_standardisation_gives_the_bound_in_its_own_coordinates(
    make_problem, images_and_latents, dtype
) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 8)
    layer = Layer(problem.model)
    assert isinstance(layer, MixtureQuantizer)
    latents = layer.unstandardized(z).to(dtype)
    seen: list[torch.dtype] = []

    def decode(raw: Tensor) -> Tensor:
        seen.append(raw.dtype)
        return problem.decode(layer.standardized(raw))

    bound = elbo(layer, latents, x, decode, problem.likelihood, generator=seeded(), samples=2)
    direct = elbo(problem.model, z, x, problem.decode, problem.likelihood, generator=seeded(), samples=2)
    assert seen == [dtype, dtype]
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.5, "rtol": 0.3}
    torch.testing.assert_close(bound.latent, direct.latent, **tolerance)
    torch.testing.assert_close(bound.value, direct.value, **tolerance)


def test_a_layer_is_scored_as_the_discrete_model_where_asked(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 3)
    layer = Layer(problem.model)
    assert not LatentModel.of(layer).discrete
    model = LatentModel.of(layer, discrete=True)
    bound = elbo(model, layer.unstandardized(z), x, problem.decode, problem.likelihood)
    torch.testing.assert_close(bound.latent, torch.zeros_like(bound.latent))
    with pytest.raises(ValueError, match="no variance"):
        model.log_variances(z.flatten(0, 1))


def test_a_variance_per_code_is_broadcast(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 3)
    layer = Layer(problem.model, per_code=True)
    value = importance_weighted_bound(
        layer, layer.unstandardized(z), x, problem.decode, problem.likelihood, samples=3
    )
    assert value.shape == (3,)
    assert torch.isfinite(value).all()


def test_a_latent_on_its_codeword_stays_finite(make_problem) -> None:
    problem = make_problem(positions=1)
    z = problem.model.codebook[:1][None]
    x = problem.decode(z)
    bound = elbo(problem.model, z, x, problem.decode, problem.likelihood)
    assert torch.isfinite(bound.value).all()


def test_wrong_shapes_say_what_to_do(make_problem, images_and_latents) -> None:
    problem = make_problem()
    x, z = images_and_latents(problem, 3)
    rest = (problem.decode, problem.likelihood)
    with pytest.raises(ValueError, match="with the B of target"):
        elbo(problem.model, z, x[:2], *rest)
    with pytest.raises(ValueError, match="last axis is the feature axis"):
        elbo(problem.model, z[..., :1], x, *rest)
    with pytest.raises(ValueError, match="mask must have"):
        elbo(problem.model, z, x, *rest, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="samples must be positive"):
        importance_weighted_bound(problem.model, z, x, *rest, samples=0)

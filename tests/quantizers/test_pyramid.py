"""A pyramid of scales against its definition written out block by block: means, codes, places, objective, start."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from gmvq import GaussianMixtureVQ, Objective, PyramidGMVQ
from gmvq.functional.schedules import Constant
from gmvq.quantizers.blocks import scale_places

D, K, SCALES = 4, 8, 3
SHAPES = [(5,), (4, 6), (3, 2, 5)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, D, generator=generator, dtype=torch.float64)
    # Neighbours are alike, so that coarse scales have something to say.
    return values + torch.randn(
        shape[0], *[1] * (len(shape) - 1), D, generator=generator, dtype=torch.float64
    )


def started(shape: tuple[int, ...] = (6, 6), **options: Any) -> PyramidGMVQ:
    torch.manual_seed(0)
    built = PyramidGMVQ(D, K, SCALES, support=None, **options).double()
    built.init_codebook(normal(32, *shape, seed=9))
    return built.eval()


def some(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape) % 5 > 1


def blocks(spatial: tuple[int, ...], side: int) -> list[tuple[slice, ...]]:
    """Every block as slices, in raster order."""
    starts = product(*(range(0, size, side) for size in spatial))
    return [tuple(slice(at, at + side) for at in start) for start in starts]


def written_out(built: PyramidGMVQ, item: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (*spatial, n) and the sum of codewords (*spatial, D) of one item, block by block."""
    residual, spatial = item.clone(), tuple(item.shape[:-1])
    indices = torch.full((*spatial, SCALES), -1)
    for number, level in enumerate(built.mixtures):
        for block in blocks(spatial, 2 ** (SCALES - 1 - number)):
            if not valid[block].any():
                continue
            code = level.encode(residual[block][valid[block]].mean(0))
            place = tuple((valid[block].nonzero()[0] + torch.tensor([one.start for one in block])).tolist())
            indices[(*place, number)] = code
            residual[block] = residual[block] - level.get_codes_from_indices(code)
    return indices, torch.where(valid[..., None], item - residual, 0.0)


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_codes_and_sums_are_those_of_the_definition(spatial, masked) -> None:
    built, x = started(spatial), normal(3, *spatial, seed=1)
    mask = some(3, *spatial) if masked else torch.ones(3, *spatial, dtype=torch.bool)
    out = built(x, mask if masked else None)
    for item, valid, indices, quantized in zip(x, mask, out.indices, out.quantized, strict=True):
        expected, total = written_out(built, item, valid)
        assert torch.equal(indices, expected)
        torch.testing.assert_close(quantized, total)
    assert ((out.log_variance != 0) == (out.indices >= 0)).all()


@pytest.mark.parametrize("spatial", SHAPES)
def test_every_block_has_one_code_in_its_place(spatial) -> None:
    built = started(spatial)
    indices = built.encode(normal(2, *spatial, seed=1)).flatten(1)
    places = scale_places(spatial, SCALES)
    assert [len(one) for one in places] == built.codes_per_item(spatial)
    assert torch.equal((indices[0] >= 0).nonzero()[:, 0], torch.cat(places).sort().values)


def test_an_item_has_the_same_codes_in_any_batch() -> None:
    built, x = started(), normal(6, 5, 7, seed=2).float()
    built.float()
    whole = built.encode(x)
    parts = torch.cat([built.encode(part) for part in x.split([1, 3, 2])])
    assert torch.equal(parts, whole)
    assert torch.equal(built.get_codes_from_indices(whole[:1]), built.get_codes_from_indices(whole)[:1])


def test_objective_is_that_of_the_scales_by_their_number_of_blocks() -> None:
    built, x, mask = started(), normal(2, 5, 4, seed=3), some(2, 5, 4)
    out = built(x, mask)
    numbers = [
        sum(bool(valid[b].any()) for valid in mask for b in blocks((5, 4), 4 >> n)) for n in range(SCALES)
    ]
    assert numbers[-1] == mask.sum()
    total, residual = torch.zeros((), dtype=torch.float64), x.clone()
    for number, (level, count) in enumerate(zip(built.mixtures, numbers, strict=True)):
        cut = [(item, block) for item in range(2) for block in blocks((5, 4), 4 >> number)]
        cut = [(item, block) for item, block in cut if mask[item][block].any()]
        means = torch.stack([residual[item][block][mask[item][block]].mean(0) for item, block in cut])
        own = level(means)
        total += count / numbers[-1] * own.nats
        torch.testing.assert_close(out.terms[f"nats/{number + 1}"], count / numbers[-1] * own.nats)
        for (item, block), codeword in zip(cut, own.quantized, strict=True):
            residual[item][block] -= codeword
        torch.testing.assert_close(out.terms[f"error/{number + 1}"], residual[mask].square().mean())
    torch.testing.assert_close(out.nats, total)


def test_the_bound_is_that_of_the_written_model() -> None:
    """All codes of two positions and two scales: KL of the whole posterior, and the ELBO under log p(x)."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"objective": Objective("elbo", beta=Constant(1.0)), "support": None}
    built = PyramidGMVQ(D, 2, 2, **options).double().eval()
    built.init_codebook(normal(16, 2))
    x = normal(1, 2, seed=3)
    coarse, fine = built.mixtures
    first = coarse.posterior(x.mean(1)).log_probs()[0]
    evidence, bound, total = [], 0.0, 0.0
    for a, b, c in product(range(2), repeat=3):
        part = coarse.get_codes_from_indices(torch.tensor(a))
        second = fine.posterior(x[0] - part).log_probs()
        log_q = first[a] + second[0, b] + second[1, c]
        indices = torch.tensor([[[a, b], [-1, c]]])
        z = built.get_codes_from_indices(indices)
        log_likelihood = torch.distributions.Normal(z, 0.5).log_prob(x.sin()).sum()
        log_p = log_likelihood - 3 * math.log(2)
        evidence.append(log_p)
        bound += log_q.exp() * (log_p - log_q)
        total += log_q.exp()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))
    assert bound < torch.stack(evidence).logsumexp(0)
    best = coarse.get_codes_from_indices(coarse.encode(x.mean(1)))
    kl = sum((q.exp() * (q + math.log(2))).sum() for q in (first, *fine.posterior(x[0] - best).log_probs()))
    torch.testing.assert_close(2 * built(x).nats, kl)


def test_the_error_falls_with_every_scale() -> None:
    terms = started()(normal(16, 6, 6, seed=4)).terms
    errors = [float(terms[f"error/{number}"]) for number in range(1, SCALES + 1)]
    assert errors == sorted(errors, reverse=True)


def test_scales_are_read_one_after_the_other_and_the_finest_may_be_left_out() -> None:
    built, x = started(), normal(2, 5, 6, seed=5)
    indices = built.encode(x, some(2, 5, 6))
    for count, read in enumerate(built.progressive(indices.unbind(-1)), 1):
        assert torch.equal(read, built.get_codes_from_indices(indices[..., :count]))
        cut = indices.clone()
        cut[..., count:] = -1
        assert torch.equal(built.get_codes_from_indices(cut), read)
    one = indices.clone()
    one[0, ..., 1:] = -1
    read = built.get_codes_from_indices(one)
    assert torch.equal(read[:1], built.get_codes_from_indices(indices[:1, ..., :1]))
    assert torch.equal(read[1:], built.get_codes_from_indices(indices)[1:])


def test_before_the_start_latents_pass_with_their_gradient() -> None:
    built, x = PyramidGMVQ(D, K, SCALES).double(), normal(4, 5, 3).requires_grad_()
    out = built(x)
    torch.testing.assert_close(out.quantized, x)
    weights = normal(4, 5, 3, seed=1)
    (gradient,) = torch.autograd.grad((out.quantized * weights).sum(), x)
    torch.testing.assert_close(gradient, weights)
    assert (out.indices == -1).all()


def test_one_scale_alone_is_straight_through() -> None:
    """With one code the posterior has no gradient, and what is left is the identity, across the error."""
    built = PyramidGMVQ(D, 1, SCALES).double()
    built.init_codebook(normal(32, 6, 6))
    x, weights = normal(4, 5, 3).requires_grad_(), normal(4, 5, 3, seed=1)
    quantized = built(x).quantized
    error = torch.nn.functional.normalize((quantized - x).detach(), dim=-1)
    weights -= (weights * error).sum(-1, keepdim=True) * error
    (gradient,) = torch.autograd.grad((quantized * weights).sum(), x)
    torch.testing.assert_close(gradient, weights)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("way", ["batches", "eval", "at once"])
def test_all_scales_start_in_the_same_batch(shared, way) -> None:
    built = PyramidGMVQ(D, K, SCALES, start_after=3, shared_codebook=shared)
    batches = 1 if way == "at once" else 3
    for seed in range(batches):
        built(normal(8, 6, 6, seed=seed).float().requires_grad_(way != "at once"))
        assert all(level.started for level in built.mixtures) == (way == "at once")
    if way == "batches":
        built(normal(8, 6, 6, seed=7).float().requires_grad_())
    elif way == "eval":
        built.eval()
    assert all(level.started and level._pool is None for level in built.mixtures)
    out = built.eval()(normal(8, 6, 6, seed=8).float())
    assert float(out.terms["error/3"]) < 0.5 * float(normal(8, 6, 6, seed=8).square().mean())
    assert len({id(level.codebook) for level in built.mixtures}) == (1 if shared else SCALES)
    assert len({float(level.scale) for level in built.mixtures}) == SCALES


def test_a_shared_codebook_is_fitted_to_the_vectors_of_all_scales() -> None:
    """Coarse means and details of two kinds: codes at both are there."""
    means = 8.0 * torch.eye(D, dtype=torch.float64)[torch.arange(32) % 2]
    details = torch.eye(D, dtype=torch.float64)[2:].repeat(2, 1) * torch.tensor([1.0, 1, -1, -1])[:, None]
    built = PyramidGMVQ(D, 6, 2).double()
    built.init_codebook(means[:, None] + details)
    out = built.eval()(means[:, None] + details)
    assert float(out.terms["error/2"]) < 1e-6


def test_few_vectors_of_a_coarse_scale_move_a_shared_codebook_less() -> None:
    """One pooled M-step: the weight of the past counts the vectors of all scales, not of the coarse one alone."""
    moved = []
    for memory in (1.0, 16.0):
        level = GaussianMixtureVQ(D, K).double()
        level.births = False
        level.init_codebook(normal(64, seed=1))
        before = level.codebook.detach().clone()
        level.memory = memory
        level(normal(8, seed=2))
        level.settle()
        moved.append(float((level.codebook.detach() - before).norm()))
    assert moved[1] < 0.3 * moved[0]
    built = started((4, 4)).train()
    built(normal(8, 4, 4))
    assert [level.memory for level in built.mixtures] == [16.0, 4.0, 1.0]
    own = started((4, 4), shared_codebook=False).train()
    own(normal(8, 4, 4))
    assert [level.memory for level in own.mixtures] == [1.0] * SCALES


def test_what_cannot_be_says_what_is_expected() -> None:
    with pytest.raises(ValueError, match="shared codebook has one size"):
        PyramidGMVQ(D, [2, 4])
    with pytest.raises(ValueError, match="leave scales out"):
        PyramidGMVQ(D, [2, 4], 3, shared_codebook=False)
    with pytest.raises(ValueError, match="units must be one of 'latents'"):
        PyramidGMVQ(D, K, units="standardized")
    built = started()
    with pytest.raises(ValueError, match=r"\(B, \*spatial, D\)"):
        built(torch.randn(D, dtype=torch.float64))
    with pytest.raises(ValueError, match="first m of 3 scales"):
        built.get_codes_from_indices(torch.zeros(1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="more than one"):
        built.get_codes_from_indices(torch.zeros(1, 4, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="integers"):
        built.get_codes_from_indices(torch.zeros(1, 4, 3))

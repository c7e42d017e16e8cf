"""Ragged codes against their definition: trees, codes, objective, gradient; budgets and distortions that hold."""

from __future__ import annotations

import copy
import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gmvq import GaussianMixtureVQ, RaggedGMVQ
from gmvq.functional.schedules import Constant
from gmvq.quantizers.parts import Variance

D, K, SCALES = 3, 32, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Latents (*shape, D) whose neighbours are alike, in some items more than in others."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, D, generator=generator, dtype=torch.float64)
    items = torch.arange(shape[0]).view(-1, *[1] * len(shape))
    ones = [1] * (len(shape) - 1)
    return values * 0.1 * items + torch.randn(shape[0], *ones, D, generator=generator, dtype=torch.float64)


def started(**options: Any) -> RaggedGMVQ:
    torch.manual_seed(0)
    built = RaggedGMVQ(D, K, SCALES, **{"support": None, **options}).double()
    built.init_codebook(normal(8, 8, 8, seed=9))
    return built.eval()


def some(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape) % 5 > 1


def test_a_target_of_the_error_is_kept_by_the_fewest_codes_of_one_price() -> None:
    built, x, mask = started(), normal(5, 6, 7, seed=1), some(5, 6, 7)
    x = torch.where(mask[..., None], x, torch.nan)

    def error(price: Tensor) -> Tensor:
        codes = built.encode(x, mask, distortion=price)
        square = (built.standardized(x) - built.codebook[codes.clamp_min(0)]).square().mean(-1)
        return torch.stack([own[valid].mean() for own, valid in zip(square, mask, strict=True)]).detach()

    least, most = error(torch.zeros(5)), error(torch.full((5,), 64.0))
    assert (least < most).any()
    target = float((least + most).mean()) / 2
    price = built.distortion_for(x, target, mask)
    assert price.shape == (5,)
    assert ((error(price) <= target) | (price == 0)).all()
    assert ((error(price + 1e-5) > target) | (price > 63.99)).all()
    assert ((price > 0) & (price < 63.99)).any()
    assert (built.distortion_for(x, -1.0, mask) == 0).all()
    assert (built.distortion_for(x, float(most.max()), mask) > 63.99).all()


def cost(built: RaggedGMVQ, rows: Tensor) -> tuple[float, int]:
    """1/2 sum w |z - mu|^2 of rows (n, D) with the code of their mean, and the code."""
    code = built.encode(rows.mean(0))
    error = built.standardized(rows) - built.codebook[code]
    return 0.5 * float((error.square() * built.log_precision.exp()).sum().detach()), int(code)


def best(built: RaggedGMVQ, item: Tensor, valid: Tensor, side: int, price: float) -> tuple[float, Tensor]:
    """The least cost of a block and its codes, by trying both."""
    codes = torch.full(item.shape[:-1], -1)
    if not valid.any():
        return 0.0, codes
    whole, code = cost(built, item[valid])
    codes[valid] = code
    if side == 1:
        return whole + price, codes
    half, total, parts = side // 2, 0.0, torch.full(item.shape[:-1], -1)
    for start in product(*(range(0, size, half) for size in valid.shape)):
        block = tuple(slice(at, at + half) for at in start)
        part, parts[block] = best(built, item[block], valid[block], half, price)
        total += part
    return (whole + price, codes) if whole + price <= total else (total, parts)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("distortion", [0.05, 0.2, 0.5])
def test_codes_are_those_of_the_best_tree(masked, distortion) -> None:
    built, x = started(), normal(6, 4, 4, seed=1)
    mask = some(6, 4, 4) if masked else torch.ones(6, 4, 4, dtype=torch.bool)
    indices = built.encode(x, mask if masked else None, distortion=distortion)
    counts = []
    for item, valid, found in zip(x, mask, indices, strict=True):
        _, expected = best(built, item, valid, 4, distortion * math.log(K))
        assert torch.equal(found, expected)
        counts.append(len(found[valid].unique()))
    assert min(counts) < max(counts)


@pytest.mark.parametrize("spending", [{"budget": 9}, {"budget": 20}, {"distortion": 0.3}])
@pytest.mark.parametrize("spatial", [(9,), (5, 7), (3, 2, 5)])
def test_decode_of_encode_is_the_eval_forward_in_any_batch(spatial, spending) -> None:
    built = started()
    x, mask = normal(6, *spatial, seed=2), some(6, *spatial)
    for own in (None, mask):
        out = built(x, own, **spending)
        assert torch.equal(built.encode(x, own, **spending), out.indices)
        assert torch.equal(built.get_codes_from_indices(out.indices), out.quantized)
        alone = [
            built.encode(x[i : i + 1], None if own is None else own[i : i + 1], **spending) for i in range(6)
        ]
        assert torch.equal(torch.cat(alone), out.indices)
        assert ((out.log_variance != 0) == (out.indices >= 0)).all()


@torch.no_grad()
def test_a_budget_holds_and_spends_on_the_items_that_need_it() -> None:
    built, x = started(), normal(8, 8, 8, seed=3)
    errors = []
    for budget in (4, 10, 30, 64):
        indices = built.encode(x, budget=budget)
        assert built.code_counts(indices).max() <= budget
        errors.append(float((built.get_codes_from_indices(indices) - x).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert torch.equal(built.encode(x, budget=64), built.encode(x))
    counts = built.code_counts(built.encode(x, distortion=0.5))
    assert counts[0] == 4  # an item of one colour
    assert counts[-1] > 12


@torch.no_grad()
def test_more_distortion_means_fewer_codes_and_no_more_error_for_each() -> None:
    built, x = started(), normal(8, 8, 8, seed=4)
    counts, errors = [], []
    for distortion in (0.0, 0.2, 0.5, 1.0, 3.0):
        indices = built.encode(x, distortion=distortion)
        counts.append(built.code_counts(indices))
        errors.append((built.get_codes_from_indices(indices) - x).square().flatten(1).sum(1))
    for fewer, more in zip(counts[1:], counts[:-1], strict=True):
        assert (fewer <= more).all()
    for worse, better in zip(errors[1:], errors[:-1], strict=True):
        assert (worse >= better - 1e-9).all()
    each = built.encode(x, distortion=torch.tensor([0.0, 3.0] * 4))
    assert torch.equal(each[0::2], built.encode(x[0::2], distortion=0.0))
    assert torch.equal(each[1::2], built.encode(x[1::2], distortion=3.0))


def test_the_objective_is_that_of_the_leaves_per_position() -> None:
    built, x = started(), normal(6, 4, 4, seed=1)
    out = built(x, distortion=1.0)
    rows = []
    for item, codes in zip(x, out.indices, strict=True):
        rows += leaves(item, codes, 4)
    plain = GaussianMixtureVQ(D, K, support=None).double()
    plain.load_state_dict(built.state_dict())
    expected = plain.eval()(torch.stack(rows))
    torch.testing.assert_close(out.nats, expected.nats * len(rows) / (6 * 16))
    torch.testing.assert_close(out.terms["latent"], expected.terms["latent"] * len(rows) / (6 * 16))
    torch.testing.assert_close(out.terms["perplexity"], expected.terms["perplexity"])


def leaves(item: Tensor, codes: Tensor, side: int) -> list[Tensor]:
    """Means of the blocks of one code."""
    if side == 1 or len(codes.unique()) == 1:
        return [item.flatten(0, 1).mean(0)]
    half = side // 2
    blocks = [(slice(i, i + half), slice(j, j + half)) for i in (0, half) for j in (0, half)]
    return [leaf for block in blocks for leaf in leaves(item[block], codes[block], half)]


def test_training_draws_trees_and_a_block_shares_its_gradient() -> None:
    built = started(variance=Variance(noise=Constant(0.0))).train()
    x = normal(16, 4, 4, seed=5).requires_grad_()
    torch.manual_seed(2)
    out = built(x)
    counts = built.code_counts(out.indices)
    assert counts.min() < counts.max()
    weights = torch.randn(x.shape, dtype=torch.float64)
    (grad,) = torch.autograd.grad((built(x, distortion=1e3).quantized * weights).sum(), x)
    torch.testing.assert_close(grad, grad[:, :1, :1].expand_as(grad))
    assert (grad != 0).all()
    (grad,) = torch.autograd.grad((built(x, distortion=0.0).quantized * weights).sum(), x)
    assert not torch.equal(grad, grad[:, :1, :1].expand_as(grad))


def test_a_repeated_forward_finds_the_same_trees() -> None:
    """Activation checkpointing: what the batch before taught is applied once, before the search."""
    results = []
    for again in (False, True):
        built = started().train()
        built(normal(16, 4, 4, seed=6))
        x = normal(16, 4, 4, seed=7).requires_grad_()
        torch.manual_seed(3)
        run = (
            (lambda x, b=built: checkpoint(lambda y: b(y).quantized, x, use_reentrant=False))
            if again
            else (lambda x, b=built: b(x).quantized)
        )
        (grad,) = torch.autograd.grad(run(x).sin().sum(), x)
        results.append((grad, copy.deepcopy(built.state_dict())))
    torch.testing.assert_close(results[0], results[1])


def test_it_takes_the_weights_of_a_plain_layer_and_is_one_without_spending() -> None:
    built, x = started(), normal(4, 4, 4, seed=8)
    plain = GaussianMixtureVQ(D, K, support=None).double()
    plain.load_state_dict(built.state_dict())
    assert torch.equal(built.encode(x), plain.eval().encode(x))
    torch.testing.assert_close(built(x).nats, plain(x).nats)


def test_latents_without_axes_of_space_are_quantized_one_by_one() -> None:
    built, x = started().train(), normal(40, seed=1)
    assert built(x).indices.shape == (40,)
    with pytest.raises(ValueError, match="blocks need latents"):
        built.encode(x, budget=4)


@pytest.mark.parametrize(
    ("spending", "message"),
    [
        ({"budget": 20, "distortion": 1.0}, "not both"),
        ({"budget": 3}, "at least 4"),
        ({"distortion": -1.0}, "must not be negative"),
        ({"distortion": math.nan}, "must not be negative"),
    ],
)
def test_what_cannot_be_spent_is_said(spending, message) -> None:
    with pytest.raises(ValueError, match=message):
        started().encode(normal(2, 8, 8), **spending)

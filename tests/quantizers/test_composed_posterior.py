"""The posterior of levels, scales and groups of levels: each code given those before, against sums over paths."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from quantizer_cases import D, K
from quantizer_cases import latents as rows
from torch import Tensor

from gmvq import ChannelsFirst, GaussianMixtureVQ, GroupedGMVQ, PyramidGMVQ, ResidualGMVQ

SIZES = (K, 3)
MASK = torch.arange(12).view(3, 4) % 5 != 1


def residual(**options: Any) -> ResidualGMVQ:
    torch.manual_seed(0)
    built = ResidualGMVQ(D, SIZES, support=None, **options).double()
    built.init_codebook(rows(64, seed=9))
    return built.eval()


def grouped(shared: bool) -> GroupedGMVQ:
    torch.manual_seed(0)
    built = GroupedGMVQ(6, K, 2, num_quantizers=3, shared_codebook=shared, support=None).double()
    built.init_codebook(rows(64, 6, seed=9))
    return built.eval()


def pyramid(size: int = K, scales: int = 2) -> PyramidGMVQ:
    torch.manual_seed(0)
    built = PyramidGMVQ(D, size, scales, support=None).double()
    built.init_codebook(rows(512, seed=9).view(32, 4, 4, D))
    return built.eval()


def by_hand(level: GaussianMixtureVQ, x: Tensor) -> Tensor:
    """log q(c|x), (..., K), over all pairs of a position and a code."""
    z = (x - level.mean) / level.scale
    distance = (z[..., None, :] - level.codebook).square().sum(-1)
    joint = level.log_weights() - 0.5 * level.sharpening * level.log_precision.exp() * distance
    return joint.log_softmax(-1)


# Levels


def test_levels_are_scored_and_drawn_one_after_the_other() -> None:
    built, x = residual(), rows(64)
    posterior = built.posterior(x)
    indices = posterior.sample(torch.Generator().manual_seed(0))
    assert not torch.equal(indices, built.encode(x))
    first, second = built.mixtures
    left = x - first.get_codes_from_indices(indices[:, 0])
    expected = [by_hand(first, x), by_hand(second, left)]
    expected = [log_q.gather(-1, at[:, None])[:, 0] for log_q, at in zip(expected, indices.T, strict=True)]
    torch.testing.assert_close(posterior.log_prob(indices), torch.stack(expected, -1))
    torch.testing.assert_close(posterior.log_prob(indices[:, :1])[:, 0], expected[0])
    torch.testing.assert_close(posterior.cross_entropy(indices), -torch.cat(expected).mean())


@pytest.mark.parametrize("units", ["latents", "standardized"])
def test_each_level_given_the_codes_before_it_is_a_mixture(units) -> None:
    built, x = residual(units=units), rows(12).view(3, 4, D)
    first, second = built.mixtures
    every = torch.arange(SIZES[1])
    for code in range(K):
        given = torch.full((3, 4, 1), code)
        left = x - first.get_codes_from_indices(given[..., 0])
        log_q = [by_hand(first, x), by_hand(second, left)]
        posterior = built.posterior(x)
        values, codes = posterior.topk(3, given)
        for number, own in enumerate(log_q):
            best, places = own.topk(3, -1)
            torch.testing.assert_close(values[..., number, :], best)
            assert torch.equal(codes[..., number, :], places)
        entropy = torch.stack([-(own.exp() * own).sum(-1) for own in log_q], -1)
        torch.testing.assert_close(posterior.entropy(given), entropy)
        paths = torch.stack([torch.full_like(every, code), every], -1)
        reads = [built.get_codes_from_indices(torch.arange(K)[:, None]), built.get_codes_from_indices(paths)]
        mean = torch.stack([own.exp() @ read for own, read in zip(log_q, reads, strict=True)], -2)
        torch.testing.assert_close(posterior.expected(given), mean)


def test_entropy_of_the_levels_adds_up_to_that_of_all_paths() -> None:
    built, x = residual(), rows(7)
    posterior = built.posterior(x)
    paths = [torch.tensor(path).expand(7, 2) for path in product(*map(range, SIZES))]
    log_q = torch.stack([posterior.log_prob(path).sum(-1) for path in paths], -1)
    torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(7, dtype=torch.float64))
    levels = torch.stack([posterior.entropy(path).sum(-1) for path in paths], -1)
    torch.testing.assert_close((log_q.exp() * levels).sum(-1), -(log_q.exp() * log_q).sum(-1))


def test_without_codes_the_path_is_that_of_encode() -> None:
    built, x = residual(), rows(50)
    posterior, indices = built.posterior(x), built.encode(x)
    assert torch.equal(posterior.topk(2)[1][..., 0], indices)
    for given in (indices, indices[:, :1]):
        assert torch.equal(posterior.entropy(given), posterior.entropy())
        assert torch.equal(posterior.expected(given), posterior.expected())
    dropped = torch.stack([indices[:, 0], torch.full_like(indices[:, 0], -1)], -1)
    torch.testing.assert_close(posterior.log_prob(dropped)[:, 1], torch.zeros(50, dtype=torch.float64))


def test_masked_positions_have_no_code_and_count_for_nothing() -> None:
    built, x = residual(), torch.where(MASK[..., None], rows(12).view(3, 4, D), torch.nan)
    posterior, alone = built.posterior(x, MASK), built.posterior(x[MASK])
    for masked, plain, empty in (
        (posterior.topk(2)[1], alone.topk(2)[1], -1),
        (posterior.entropy(), alone.entropy(), 0),
        (posterior.expected(), alone.expected(), 0),
    ):
        assert (masked[~MASK] == empty).all()
        torch.testing.assert_close(masked[MASK], plain)
    assert (posterior.sample()[~MASK] == -1).all()
    assert (posterior.log_prob(torch.zeros(3, 4, 2, dtype=torch.uint8))[~MASK] == 0).all()


def test_gradients_are_right() -> None:
    built, given = residual(), torch.tensor([[4, 0], [1, 2]])

    def function(x: Tensor) -> tuple[Tensor, ...]:
        posterior = built.posterior(x)
        return posterior.cross_entropy(given), posterior.entropy(given), posterior.expected(given)

    assert torch.autograd.gradcheck(function, (rows(2).requires_grad_(),))


def test_channels_first() -> None:
    built, x = residual(), rows(12).view(3, 4, D)
    found = ChannelsFirst(built).posterior(x.movedim(-1, 1)).expected()
    torch.testing.assert_close(found, built.posterior(x).expected().movedim(-1, 1))


def test_it_compiles_and_exports() -> None:
    class Soft(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = residual()

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            posterior = self.inner.posterior(x)
            return *posterior.topk(2), posterior.entropy(), posterior.expected()

    torch.compiler.reset()
    x, soft = rows(12), Soft()
    program = torch.export.export(soft, (x,)).module()
    for run in (program, torch.compile(soft, fullgraph=True, backend="aot_eager")):
        for one, other in zip(run(x), soft(x), strict=True):
            torch.testing.assert_close(one, other)


# Groups of levels


@pytest.mark.parametrize("shared", [False, True])
def test_groups_of_levels_are_each_groups_own(shared) -> None:
    built, x = grouped(shared), rows(12, 6).view(3, 4, 6)
    posterior = built.posterior(x, MASK)
    parts = [built.parts[0 if shared else g].posterior(x[..., 3 * g : 3 * g + 3], MASK) for g in (0, 1)]
    indices = posterior.sample(torch.Generator().manual_seed(0))
    own = [indices[..., g::2] for g in (0, 1)]
    together = posterior.topk(2, indices), posterior.entropy(indices), posterior.log_prob(indices)
    for g in (0, 1):
        for one, other in zip(
            (*together[0], *together[1:]),
            (*parts[g].topk(2, own[g]), parts[g].entropy(own[g]), parts[g].log_prob(own[g])),
            strict=True,
        ):
            assert one.shape[2] == 6
            torch.testing.assert_close(one[:, :, g::2], other)
    expected = torch.cat([part.expected(at) for part, at in zip(parts, own, strict=True)], -1)
    torch.testing.assert_close(posterior.expected(indices), expected)
    assert torch.equal(posterior.topk(2)[1][..., 0], built.encode(x, MASK))
    torch.testing.assert_close(
        posterior.log_prob(indices[..., :4]), posterior.log_prob(indices)[..., :4], rtol=0.0, atol=0.0
    )


# Scales


def test_each_block_given_the_coarser_codes_is_a_mixture() -> None:
    built, x = pyramid(), rows(30).view(2, 3, 5, D)
    posterior, indices = built.posterior(x), built.encode(x)
    assert torch.equal(posterior.topk(2)[1][..., 0], indices)
    coarse, fine = built.mixtures
    values, codes = posterior.topk(3, indices)
    entropy, expected = posterior.entropy(indices), posterior.expected(indices)
    assert ((entropy != 0) == (indices >= 0)).all()
    assert ((codes >= 0) == (indices >= 0)[..., None]).all()
    for item, top, left in product(range(2), range(0, 3, 2), range(0, 5, 2)):
        block = (item, slice(top, top + 2), slice(left, left + 2))
        log_q = by_hand(coarse, x[block].mean((0, 1)))
        torch.testing.assert_close(values[item, top, left, 0], log_q.topk(3)[0])
        torch.testing.assert_close(entropy[item, top, left, 0], -(log_q.exp() * log_q).sum())
        mean = log_q.exp() @ coarse.get_codes_from_indices(torch.arange(K))
        torch.testing.assert_close(expected[block][..., 0, :], mean.expand_as(x[block]))
        before = coarse.get_codes_from_indices(indices[item, top, left, 0])
        log_q = by_hand(fine, x[block] - before)
        torch.testing.assert_close(values[block][..., 1, :], log_q.topk(3)[0])
        torch.testing.assert_close(entropy[block][..., 1], -(log_q.exp() * log_q).sum(-1))
        mean = before + log_q.exp() @ fine.get_codes_from_indices(torch.arange(K))
        torch.testing.assert_close(expected[block][..., 1, :], mean)


def test_entropy_of_the_blocks_adds_up_to_that_of_all_their_codes() -> None:
    """Two positions in one block and two scales: three codes."""
    built, x = pyramid(2), rows(2)[None]
    posterior, log_q, blocks = built.posterior(x), [], []
    for a, b, c in product(range(2), repeat=3):
        indices = torch.tensor([[[a, b], [-1, c]]])
        log_q.append(posterior.log_prob(indices).sum())
        blocks.append(posterior.entropy(indices).sum())
        torch.testing.assert_close(posterior.cross_entropy(indices), -log_q[-1] / 3)
    path = torch.stack(log_q)
    torch.testing.assert_close(path.exp().sum(), path.new_ones(()))
    torch.testing.assert_close((path.exp() * torch.stack(blocks)).sum(), -(path.exp() * path).sum())


def test_draws_of_scales_are_codes_of_blocks() -> None:
    built, x = pyramid(scales=3), rows(60).view(2, 5, 6, D)
    mask = torch.arange(60).view(2, 5, 6) % 5 > 1
    posterior = built.posterior(torch.where(mask[..., None], x, torch.nan), mask)
    indices = posterior.sample(torch.Generator().manual_seed(0))
    assert torch.equal(indices >= 0, built.encode(x, mask) >= 0)
    assert not torch.equal(indices, built.encode(x, mask))
    assert (built.get_codes_from_indices(indices)[~mask] == 0).all()
    assert (posterior.expected()[~mask] == 0).all()
    log_prob = posterior.log_prob(indices)
    assert ((log_prob != 0) == (indices >= 0)).all()
    torch.testing.assert_close(posterior.log_prob(indices[..., :2]), log_prob[..., :2])


def test_wrong_input_says_what_is_expected() -> None:
    posterior = residual().posterior(rows(4))
    with pytest.raises(ValueError, match="between 1 and the number of codes, 3"):
        posterior.topk(4)
    for wrong in (torch.zeros(4, 3), torch.zeros(4, 0), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match=r"shape \(4, m\) with the first m of 2 levels"):
            posterior.entropy(wrong.long())
    with pytest.raises(TypeError, match="integer"):
        posterior.entropy(torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"lie in \[0, 2\]"):
        posterior.entropy(torch.full((4, 2), 4))
    built = GroupedGMVQ(6, K, 2).double()
    built.init_codebook(rows(64, 6))
    with pytest.raises(ValueError, match="nothing comes before"):
        built.posterior(rows(4, 6)).entropy(torch.zeros(4, 2, dtype=torch.int64))

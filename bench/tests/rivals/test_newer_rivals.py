"""The rivals of 2024 to 2026 against closed forms, enumeration, and what their papers prove."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from rival_cases import D, K, build, latents, trained
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence

from gmvq_bench.rivals.bridge import VQBridge
from gmvq_bench.rivals.opt_vq import sinkhorn
from gmvq_bench.rivals.peers import dimensional_collapse


def cost(rows: int, columns: int, seed: int) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_optvq_plans_have_uniform_marginals() -> None:
    plan = sinkhorn(cost(40, 8, 0), 5.0, 200)
    torch.testing.assert_close(plan.sum(1), torch.ones(40))
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 5.0))
    # without any weight on the distance it is the product of the marginals
    torch.testing.assert_close(sinkhorn(cost(40, 8, 0), 1e-7, 1), torch.full((40, 8), 1 / 8))


def test_optvq_at_a_large_epsilon_is_the_best_assignment_by_enumeration() -> None:
    crowded = 0
    for seed in range(10):
        distances = cost(4, 4, seed)
        best = min(
            itertools.permutations(range(4)), key=lambda p: sum(float(distances[n, p[n]]) for n in range(4))
        )
        assert sinkhorn(distances, 60.0, 3000).argmax(-1).tolist() == list(best)
        crowded += len(set(distances.argmin(-1).tolist())) < 4
    assert crowded > 5  # where the nearest codes would not do


def test_optvq_uses_most_codes_where_the_nearest_is_one() -> None:
    layer = build("optvq", commitment_weight=0.5, epsilon=50.0, rounds=200)
    with torch.no_grad():
        layer.codebook.mul_(0.2).add_(5.0)[0] = 0.0  # pyright: ignore
        layer.started.fill_(True)  # pyright: ignore
    x = latents(160)
    out = layer(x)
    assert len(out.indices.unique()) > 0.8 * K
    codes = layer.codewords().detach()[out.indices]
    torch.testing.assert_close(out.quantized, codes)
    torch.testing.assert_close(out.loss, 1.5 * F.mse_loss(codes, x))
    assert not layer.eval()(x).indices.any()  # a batch of one, or of any size


def test_bsq_codes_are_corners_of_the_sphere_within_the_papers_bound() -> None:
    """Codes are (+-1, ..., +-1) / sqrt L; |u - code|^2 = 2 - 2 |u|_1 / sqrt L <= 2 - 2 / sqrt L (arXiv 2406.07548)."""
    layer = build("bsq", dim=4).eval()  # K = 2^4: no projections
    corners = torch.tensor(list(itertools.product([-0.5, 0.5], repeat=4)))
    torch.testing.assert_close(layer.codewords(), corners)
    u = F.normalize(torch.cat([latents(500, dim=4), torch.eye(4)]), dim=-1)
    error = (layer(u).quantized - u).square().sum(-1)
    torch.testing.assert_close(error, 2.0 - u.abs().sum(-1))
    assert float(error.max()) == pytest.approx(2.0 - 2.0 / math.sqrt(4.0))
    nearest = torch.cdist(u[:500], corners).argmin(-1)
    assert torch.equal(layer(3.0 * u[:500]).indices, nearest)


def test_bsq_entropy_is_the_sum_over_bits() -> None:
    """The soft assignment over all corners factorises (arXiv 2406.07548), so its entropy is a sum of L binary ones."""
    layer = build("bsq", dim=4)
    x = latents(60, dim=4)
    _, losses = layer.layer(x[None], inv_temperature=1.0, return_loss_breakdown=True)  # pyright: ignore
    bits = Bernoulli(logits=4.0 * F.normalize(x, dim=-1) / math.sqrt(4.0))
    torch.testing.assert_close(losses.per_sample_entropy, bits.entropy().sum(-1).mean())


def test_fsp_has_the_centroids_of_a_uniform_source() -> None:
    """Codes are the middles of L bins: mean squared error 1 / 12 L^2, Lloyd and Max (arXiv 2602.17133, equation 15)."""
    layer = build("fsp", dim=2).eval()  # levels 4 and 4: no projections
    uniform = (torch.arange(4000) + 0.5) / 4000
    pre = torch.atanh(2.0 * uniform - 1.0)
    # the variance that its regulariser aims at, as the paper has it: 0.8225
    assert float(pre.square().mean()) == pytest.approx(math.pi**2 / 12, rel=2e-3)
    assert layer.layer.vector_norm.l2_target == pytest.approx(math.pi**2 / 12, abs=1e-4)  # pyright: ignore
    scalars = layer(torch.stack([pre, pre], -1)).quantized * math.sqrt(1 / 12) + 0.5
    torch.testing.assert_close(scalars.unique(), torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert float((scalars[:, 0] - uniform).square().mean()) == pytest.approx(1 / (12 * 16), rel=1e-3)


def test_fsp_moves_within_half_a_bin_while_it_does_not_round() -> None:
    x = latents(500, dim=2)
    before = 0.5 * torch.tanh(x) + 0.5
    moved = build("fsp", dim=2, quantize_rate=0.0)(x).quantized * math.sqrt(1 / 12) + 0.5 - before
    assert 0.12 < float(moved.abs().max()) <= 0.125 + 1e-5
    assert build("fsp", dim=2, quantize_rate=1.0)(x).quantized.unique().numel() <= 4


def test_fvq_with_an_identity_for_a_projector_is_vq() -> None:
    projected, plain = build("fvq"), build("vq")
    projected.layer._codebook.vq_bridge = nn.Identity()  # pyright: ignore
    with torch.no_grad():
        projected.layer._codebook.embed.copy_(plain.layer._codebook.embed)  # pyright: ignore
    x = latents(80)
    a, b = projected(x), plain(x)
    assert torch.equal(a.indices, b.indices)
    torch.testing.assert_close(a.quantized, b.quantized)
    torch.testing.assert_close(a.loss, b.loss)
    assert torch.equal(projected.codewords(), plain.codewords())


def test_fvq_moves_every_codeword_by_the_gradient_of_one() -> None:
    layer = build("fvq")
    before = layer.codewords().detach().clone()
    F.embedding(torch.tensor([3]), layer.codewords()).sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        with torch.no_grad():
            parameter.sub_(1e-2 * parameter.grad)
        if key.endswith("embed"):
            assert (parameter.grad.abs().sum(-1) > 0).all()
    assert ((layer.codewords() - before).abs().amax(-1) > 1e-6).all()


def test_fvq_projects_blocks_of_codes_that_see_each_other() -> None:
    torch.manual_seed(0)
    bridge = VQBridge(D, K, patch=4, width=8)
    codes = latents(1, K)
    other = codes.clone()
    other[0, 0] += 1.0
    assert ((bridge(other) - bridge(codes)).abs().sum(-1) > 0).all()
    with pytest.raises(ValueError, match="multiple of patch"):
        build("fvq", patch=5)


def test_dimvq_penalty_by_hand() -> None:
    """0 for features that are not correlated; for two equal ones (K/2)^2, as rows are normalised to (1, 1) / sqrt 2."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)))
    assert float(dimensional_collapse(7.0 * signs)) == pytest.approx(0.0, abs=1e-10)
    line = torch.tensor([[1.0, 1.0], [-2.0, -2.0], [0.5, 0.5], [3.0, 3.0]])
    assert float(dimensional_collapse(line)) == pytest.approx((4 / 2) ** 2)


def test_dimvq_is_simvq_with_the_penalty() -> None:
    plain, free, held = build("simvq"), build("dimvq", regularization_weight=0.0), build("dimvq")
    x = latents(90)
    torch.testing.assert_close(free(x).loss, plain(x).loss)
    added = 1e-3 * dimensional_collapse(plain.codewords())
    torch.testing.assert_close(held(x).loss, plain(x).loss + added)
    with pytest.raises(ValueError, match="must not be negative"):
        build("dimvq", regularization_weight=-1.0)


def test_lgq_against_the_posterior_of_a_mixture() -> None:
    """Responsibilities are those of N(e_c, tau/2 I); at a small tau the loss is that of the nearest code."""
    layer = trained("lgq", temperature=0.3).train()
    x, codebook = latents(70, seed=4), layer.codewords()
    out = layer(x)
    logits = Independent(Normal(codebook, math.sqrt(0.3 / 2)), 1).log_prob(x[:, None])
    posterior = Categorical(logits=logits)
    torch.testing.assert_close(out.terms["conditional_entropy"], posterior.entropy().mean().detach())
    assert torch.equal(out.indices, torch.cdist(x, codebook).argmin(-1))
    torch.testing.assert_close(out.quantized, codebook[out.indices])
    p = posterior.probs
    peak, uneven = 1.0 - p.square().sum(-1).mean(), K * p.mean(0).square().sum()
    expected = F.mse_loss(codebook[out.indices], x) + 0.005 * (peak + uneven)
    torch.testing.assert_close(out.loss, expected)
    # backward it is the mean of the posterior
    direction = latents(70, seed=9)
    soft = torch.autograd.grad((p @ codebook * direction).sum(), codebook)
    hard = torch.autograd.grad((layer(x).quantized * direction).sum(), codebook)
    torch.testing.assert_close(hard, soft, rtol=1e-3, atol=1e-5)


def test_lgq_penalties_have_their_bounds() -> None:
    layer = trained("lgq").train()
    x = latents(64, seed=5)
    layer.temperature.fill_(1e6)  # pyright: ignore
    soft = layer(x).terms
    assert float(soft["peak"]) == pytest.approx(1 - 1 / K, abs=1e-4)
    assert float(soft["uneven"]) == pytest.approx(1.0, abs=1e-4)
    layer.temperature.fill_(1e-6)  # pyright: ignore
    assert float(layer(x).terms["peak"]) == pytest.approx(0.0, abs=1e-4)


def test_gq_takes_the_code_of_the_largest_density_ratio() -> None:
    layer = build("gq", dim=3)
    nn.init.normal_(layer.log_variance.weight)  # pyright: ignore
    x = latents(50, dim=3)
    posterior = Normal(x[:, None], (0.5 * layer.log_variance(x)).exp()[:, None])  # pyright: ignore[reportCallIssue]
    prior = Normal(0.0, 1.0).log_prob(layer.codewords())
    ratio = (posterior.log_prob(layer.codewords()) - prior).sum(-1)
    assert torch.equal(layer.encode(x), ratio.argmax(-1))
    rate = kl_divergence(Normal(x, (0.5 * layer.log_variance(x)).exp()), Normal(0.0, 1.0)).sum(-1)  # pyright: ignore
    torch.testing.assert_close(layer(x).terms["kl"], rate.mean().detach())


def test_gq_misses_as_often_as_the_papers_theorem_says() -> None:
    """A random codebook of K = e^(R + t) scalars has no point within s of the mean with probability (1 - P)^K, at most
    exp(-e^t sqrt(2 / pi) e^(-|mean s| - 1/2)): arXiv 2512.06609, theorem 1."""
    mean, deviation, draws = 0.8, 0.3, 1500
    layer = build("gq", dim=1, outward_weight=0.0, initial_log_variance=2 * math.log(deviation)).eval()
    torch.manual_seed(1)
    misses = 0
    for _ in range(draws):
        layer.codebook.normal_()  # pyright: ignore
        misses += float((layer(torch.tensor([[mean]])).quantized - mean).abs()) >= deviation
    normal = Normal(0.0, 1.0)
    inside = float(normal.cdf(torch.tensor(mean + deviation)) - normal.cdf(torch.tensor(mean - deviation)))
    exact = (1 - inside) ** K
    rate = 0.5 * (mean**2 + deviation**2 - 1 - math.log(deviation**2))
    excess = math.log(K) - rate
    bound = math.exp(-math.exp(excess) * math.sqrt(2 / math.pi) * math.exp(-mean * deviation - 0.5))
    assert misses / draws == pytest.approx(exact, abs=4 * math.sqrt(exact / draws))
    assert misses / draws < bound < 0.2


def test_gq_weights_follow_the_divergence() -> None:
    layer = build("gq", initial_weight=0.1, initial_log_variance=-8.0)
    x = latents(200)
    wasteful = layer(x)
    assert float(wasteful.terms["kl"]) > layer.target  # pyright: ignore
    torch.testing.assert_close(wasteful.loss, 0.1 * wasteful.terms["kl"])
    torch.testing.assert_close(layer.weights, torch.tensor([0.101, 1.01, 1.0]))
    with torch.no_grad():
        layer.log_variance.bias.zero_()  # pyright: ignore
    layer(x)
    torch.testing.assert_close(layer.weights, torch.tensor([0.1, 1.0, 1 / 1.01]))
    layer.eval()(x)
    torch.testing.assert_close(layer.weights, torch.tensor([0.1, 1.0, 1 / 1.01]))

"""The methods written here against closed forms; the package's against what its own eval returns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rival_cases import D, K, build, latents, trained
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from gmvq_bench.rivals.cvq import reanchoring_rate
from gmvq_bench.rivals.peers import fsq_levels

PEERS = (
    "vq",
    "vq-ema",
    "vq-ema-replace",
    "vq-cosine",
    "vq-rotation",
    "diveq",
    "simvq",
    "dimvq",
    "fsq",
    "fsp",
    "lfq",
    "bsq",
)


@pytest.mark.parametrize("name", PEERS)
def test_eval_is_the_packages_own(name: str) -> None:
    """But for vq-affine, whose own eval moves its statistics first."""
    layer = trained(name).eval()
    x = latents(300, seed=8)
    out = layer(x)
    quantized, indices = layer.layer(x[None])[:2]  # pyright: ignore
    assert torch.equal(indices[0].long(), out.indices)
    torch.testing.assert_close(quantized[0], out.quantized)


def test_affine_eval_is_the_packages_own_at_its_statistics() -> None:
    layer = trained("vq-affine").eval()
    x = latents(300, seed=8)
    with torch.no_grad():
        quantized, indices = layer.layer(x[None])[:2]  # pyright: ignore
    out = layer(x)  # at the statistics that the call before left behind
    assert torch.equal(indices[0], out.indices)
    torch.testing.assert_close(quantized[0], out.quantized)


def test_affine_synchronous_update_gives_codes_the_gradient_of_the_task() -> None:
    grads = []
    for v in (0.0, 0.5):
        layer = trained("vq-affine", sync_update_v=v, commitment_weight=0.0).train()
        x = latents(200, seed=6).requires_grad_()
        layer(x).quantized.sum().backward()
        embed = layer.layer._codebook.embed  # pyright: ignore
        grads.append((x.grad, embed.grad))
    (encoder, without), (same, with_sync) = grads
    assert without is None
    assert with_sync is not None
    assert with_sync.any()
    torch.testing.assert_close(encoder, same)


def logits_of(codebook: Tensor, x: Tensor, variance: float) -> Tensor:
    return -torch.cdist(x.double(), codebook.detach().double()).square() / (2 * variance)


def test_sq_vae_at_a_small_temperature() -> None:
    layer = build("sq-vae", temperature=1e-4, initial_variance=0.7)
    x = latents(400, scale=1.0)
    out = layer(x)
    distance = torch.cdist(out.quantized, layer.codewords()).amin(-1)
    assert float((distance < 1e-2).float().mean()) > 0.95
    entropy = Categorical(logits=logits_of(layer.codewords(), x, 0.7)).entropy().mean()
    error = (x - out.quantized).square().sum(-1).mean().double() / (2 * 0.7)
    torch.testing.assert_close(out.nats.double(), error - entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.terms["conditional_entropy"].double(), entropy, rtol=1e-4, atol=1e-4)


def test_published_gm_vq_at_a_small_temperature() -> None:
    layer = build("gm-vq-published", temperature=1e-4, sigma=0.8, beta=2.0)
    layer.log_precision.data.fill_(math.log(1 / 0.7))  # pyright: ignore
    x = latents(400, scale=1.0)
    torch.manual_seed(1)
    out = layer(x)
    codes, logits = layer.codewords().detach().double(), logits_of(layer.codewords(), x, 0.7)
    q = logits.softmax(-1)
    kl = (q.mean(0) * (q.mean(0) * K).log()).sum()
    torch.testing.assert_close(out.terms["kl"].double(), kl, rtol=1e-4, atol=1e-5)
    # -E log N(z; mu, 0.7) at a variance of |x - mu|^2 / (2 sigma^2 D), mu drawn from q, against its mean over codes
    variance = (x.double()[:, None] - codes).square().sum(-1) / (2 * 0.8**2 * D)
    exact = (q * (0.5 * D * (variance / 0.7 + math.log(2 * math.pi * 0.7)))).sum(-1).mean()
    torch.testing.assert_close(out.terms["latent"].double(), exact, rtol=0.05, atol=0.0)
    torch.testing.assert_close(out.nats, out.terms["latent"] + 2.0 * out.terms["kl"])


def test_affine_alternated_moves_the_codebook_in_forward() -> None:
    for name in ("vq-affine", "vq-affine-alternated"):
        layer = trained(name).train()
        embed: Any = layer.layer._codebook.embed  # pyright: ignore
        kept = embed.detach().clone()
        layer(latents(64, seed=3).requires_grad_())
        assert torch.equal(kept, embed.detach()) == (name == "vq-affine")


def test_gumbel_kl_by_hand() -> None:
    layer = build("gumbel", kl_weight=0.3)
    x = latents(50)
    out = layer(x)
    q = layer.logits(x).softmax(-1)  # pyright: ignore[reportCallIssue]
    kl = (q * (q * K).log()).sum(-1).mean()
    torch.testing.assert_close(out.loss, 0.3 * kl)
    uniform = Categorical(logits=torch.zeros(K))
    torch.testing.assert_close(
        out.terms["kl"], kl_divergence(Categorical(q), uniform).mean(), rtol=1e-4, atol=1e-5
    )


def test_gumbel_straight_through_draws_codewords() -> None:
    layer = build("gumbel", straight_through=True)
    out = layer(latents(50))
    assert (
        float(torch.cdist(out.quantized, layer.codewords()).amin(-1).detach().max()) < 1e-3
    )  # cdist's own rounding


def test_cvq_rate_by_hand() -> None:
    usage = torch.tensor([0.0, 1e-4, 0.25, 0.7499])
    rate = reanchoring_rate(usage, 0.99)
    expected = [math.exp(-n * 4 * 10 / (1 - 0.99) - 1e-3) for n in usage.tolist()]
    torch.testing.assert_close(rate, torch.tensor(expected))


def test_cvq_moves_unused_codes_to_the_closest_features() -> None:
    layer = build("cvq", anchor="closest", decay=0.5)
    with torch.no_grad():
        layer.codebook[0], layer.codebook[1:] = 0.0, 50.0  # pyright: ignore
    x = latents(40)
    before = layer.codewords().detach().clone()
    out = layer(x)
    assert not out.indices.any()
    usage = torch.tensor([0.5] + [0.0] * (K - 1))
    torch.testing.assert_close(layer.usage, usage)
    nearest = x[torch.cdist(before, x).argmin(-1)]
    rate = reanchoring_rate(usage, 0.5)[:, None]
    torch.testing.assert_close(layer.codewords().detach(), (1 - rate) * before + rate * nearest)
    expected = F.mse_loss(before[:1].expand_as(x), x) * 1.25
    torch.testing.assert_close(out.loss, expected)


@pytest.mark.parametrize("name", ["cvq", "ibq"])
def test_frozen_layers_stay_and_kmeans_starts(name: str) -> None:
    layer = build(name, kmeans_init=True)
    before = layer.codewords().detach().clone()
    layer.requires_grad_(False)(latents(100))
    assert torch.equal(layer.codewords(), before)
    layer.requires_grad_()(latents(100))
    assert float(layer.codewords().detach().std()) > 3 * float(before.std())


def test_ibq_forward_is_a_look_up_and_every_code_gets_a_gradient() -> None:
    layer = build("ibq", commitment_weight=0.0, entropy_weight=0.0)
    with torch.no_grad():
        layer.codebook.mul_(20)  # pyright: ignore
    x = latents(30).requires_grad_()
    out = layer(x)
    codebook = layer.codewords()
    assert torch.equal(out.indices, (x @ codebook.T).argmax(-1))
    assert torch.equal(out.quantized, codebook[out.indices])
    out.quantized.sum().backward()
    assert codebook.grad is not None
    assert (codebook.grad.abs().sum(-1) > 0).all()
    assert len(out.indices.unique()) < K
    torch.testing.assert_close(out.loss, 2 * (codebook[out.indices] - x).square().mean())


def test_ibq_penalty_by_hand() -> None:
    layer = build("ibq", entropy_temperature=0.5)
    x = latents(30)
    p = ((x @ layer.codewords().T) / 0.5).softmax(-1)
    expected = Categorical(p).entropy().mean() - Categorical(p.mean(0)).entropy()
    torch.testing.assert_close(layer(x).terms["entropy_penalty"], expected.detach(), rtol=1e-4, atol=1e-6)


def test_gaussian_vae_kl_against_torch_distributions() -> None:
    layer = build("gaussian-vae", initial_log_variance=-1.5)
    torch.nn.init.normal_(layer.log_variance.weight)  # pyright: ignore
    x = latents(60)
    deviation = (0.5 * layer.log_variance(x)).exp()  # pyright: ignore[reportCallIssue]
    kl = kl_divergence(Normal(x, deviation), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(layer(x).nats, kl)


def test_the_identity_is_one() -> None:
    x = latents(2, 5)
    out = build("ae")(x)
    assert torch.equal(out.quantized, x)
    assert float(out.loss) == 0.0


@pytest.mark.parametrize("bits", range(2, 19))
def test_fsq_levels_make_k_codes(bits: int) -> None:
    assert math.prod(fsq_levels(2**bits)) == 2**bits


def test_units_and_dimensions_are_as_documented() -> None:
    assert build("sq-vae").units == build("gaussian-vae").units == "nats"
    assert build("gumbel").units == build("cvq").units == build("ibq").units == "mse"
    assert build("cvq").dim == D

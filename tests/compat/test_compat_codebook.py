"""``gmvq.compat.VectorQuantize`` and the class it stands for: how codes are found, set, frozen, learned and drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compat_cases import D, K, Options, build, clusters, started
from torch import nn

CODEBOOKS: dict[str, tuple[Options, tuple[int, ...]]] = {
    "one": ({}, (K, D)),
    "between maps": ({"codebook_dim": 4}, (K, 4)),
    "of all heads": ({"heads": 3, "codebook_dim": 4}, (K, 4)),
    "of each head": ({"heads": 3, "codebook_dim": 4, "separate_codebook_per_head": True}, (3, K, 4)),
}


@pytest.mark.parametrize("name", CODEBOOKS)
def test_the_nearest_code_is_found_independently(kind, name) -> None:
    options, shape = CODEBOOKS[name]
    vq = started(kind, **options)
    x = torch.randn(2, 20, D)
    codebook = vq.codebook.detach()
    assert codebook.shape == shape
    with torch.no_grad():
        quantized, indices, _ = vq(x)
        heads = vq.project_in(x).unflatten(-1, (options.get("heads", 1), -1))
        books = codebook if codebook.ndim == 3 else codebook.expand(heads.shape[-2], -1, -1)
        nearest = (heads[..., None, :] - books).square().sum(-1).argmin(-1)
        assert torch.equal(indices.reshape(nearest.shape), nearest)
        codes = torch.stack([book[own] for book, own in zip(books, nearest.unbind(-1), strict=True)], -2)
        torch.testing.assert_close(quantized, vq.project_out(codes.flatten(-2)))


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_codebook_can_be_set(kind, name) -> None:
    options, shape = CODEBOOKS[name]
    vq = started(kind, **options)
    codes = torch.randn(shape)
    vq.codebook = codes
    torch.testing.assert_close(vq.codebook.detach(), codes)


@pytest.mark.parametrize(
    ("constructor", "call", "moves"),
    [
        ({}, {}, True),
        ({"freeze_codebook": True}, {}, False),
        ({"freeze_codebook": True}, {"freeze_codebook": False}, True),
        ({}, {"freeze_codebook": True}, False),
        ({"ema_update": False}, {}, False),
        ({}, {"ema_update": False}, False),
    ],
)
def test_freezing(kind, constructor, call, moves) -> None:
    vq = started(kind, **constructor).train()
    before = vq.codebook.detach().clone()
    x = clusters(2, 64).requires_grad_()
    quantized, indices, loss = vq(x, **call)
    torch.testing.assert_close(quantized, before[indices])
    (quantized.square().mean() + loss).backward()
    assert x.grad is not None
    assert torch.equal(vq.codebook, before) is not moves
    assert all(parameter.grad is None or moves for parameter in vq.parameters())
    quantized, *_ = vq(x)  # the next call learns as before
    assert torch.isfinite(quantized).all()


def test_a_learnable_codebook_has_a_gradient(kind) -> None:
    vq = build(kind, learnable_codebook=True, ema_update=False)
    vq(clusters(2, 64).requires_grad_())
    quantized, _, loss = vq(clusters(2, 64).requires_grad_())
    (quantized.square().mean() + loss).backward()
    assert any(
        p.shape[-2:] == (K, D) and float(p.grad.abs().sum()) > 0
        for p in vq.parameters()
        if p.grad is not None
    )


def test_dead_codes_come_back(kind) -> None:
    vq = started(kind, threshold_ema_dead_code=1).train()
    codes = torch.full((K, D), 1000.0) + torch.randn(K, D)
    codes[0] = 0.0
    vq.codebook = codes
    x = clusters(8, 64)
    assert len(vq(x, freeze_codebook=True)[1].unique()) == 1
    for _ in range(60):
        vq(clusters(8, 64))
    assert len(vq(x)[1].unique()) > K // 2


def test_it_learns(kind) -> None:
    """A linear autoencoder around it: of clusters as many as codes nearly nothing remains."""
    vq = build(kind, kmeans_init=True, threshold_ema_dead_code=2)
    encoder, decoder = nn.Linear(D, D), nn.Linear(D, D)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *vq.parameters()], 1e-2)
    for _ in range(150):
        x = clusters(4, 64)
        quantized, _, loss = vq(encoder(x))
        optimizer.zero_grad()
        (F.mse_loss(decoder(quantized), x) + loss).backward()
        optimizer.step()
    vq.eval()
    with torch.no_grad():
        x = clusters(4, 64)
        quantized, indices, _ = vq(encoder(x))
        assert float(F.mse_loss(decoder(quantized), x) / x.var()) < 0.15
    assert len(indices.unique()) > K // 2


# Errors, draws and gradients


@pytest.mark.parametrize("options", [{}, {"heads": 3, "codebook_dim": 4, "separate_codebook_per_head": True}])
def test_cross_entropy_of_given_codes(kind, options) -> None:
    vq = started(kind, **options)
    x = clusters(2, 20).requires_grad_()
    right = vq(x)[1]
    wrong = (right + 1) % K
    quantized, loss = vq(x, indices=right)
    assert torch.isfinite(quantized).all()
    assert loss.shape == ()
    assert float(loss.detach()) < float(vq(x, indices=wrong)[1].detach())
    half = right.clone()
    half[:, 10:] = -1
    torch.testing.assert_close(vq(x, indices=half)[1], vq(x[:, :10], indices=right[:, :10])[1])
    loss.backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("image", [False, True])
def test_topk_in_eval(kind, image) -> None:
    vq = started(kind)
    if image:
        trained = vq.state_dict()
        vq = build(kind, kmeans_init=True, accept_image_fmap=True).eval()
        vq.load_state_dict(trained)
    x = torch.randn(2, 20, D)
    given = x.movedim(-1, 1).unflatten(-1, (4, 5)) if image else x
    quantized, indices, errors = vq(given, topk=3)
    assert quantized.shape == (*given.shape, 3) if image else (2, 20, 3, D)
    assert indices.shape == errors.shape == ((2, 4, 5, 3) if image else (2, 20, 3))
    plain = vq(given)
    assert torch.equal(indices[..., 0], plain[1])
    torch.testing.assert_close(quantized[..., 0] if image else quantized[:, :, 0], plain[0])
    assert (errors.diff(dim=-1) >= 0).all()
    codes = vq.codebook.detach()[indices]
    expected = (codes.reshape(2, 20, 3, D) - x[..., None, :]).square().mean(-1)
    torch.testing.assert_close(errors.reshape(2, 20, 3), expected)
    assert vq(given, topk=K + 5)[1].shape[-1] == K


def test_codes_are_drawn_in_training_alone(kind) -> None:
    options = {"stochastic_sample_codes": True, "sample_codebook_temp": 1.0}
    vq = started(kind, **options)
    x = vq.codebook.detach()[:2].mean(0).expand(1, 400, D)  # half-way between two codes
    assert len(vq(x)[1].unique()) == 1
    assert len(vq.train()(x, freeze_codebook=True)[1].unique()) > 1
    cold = build(kind, stochastic_sample_codes=True, sample_codebook_temp=0.0)
    cold(clusters(2, 64), freeze_codebook=True)
    assert len(cold(x, freeze_codebook=True)[1].unique()) == 1


def test_the_decoder_may_be_kept_from_the_encoder(kind) -> None:
    vq = started(kind, route_gradients_to_input=False).train()
    x = clusters(2, 20).requires_grad_()
    quantized, _, loss = vq(x)
    assert not quantized.requires_grad
    loss.backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0

"""What must not matter: copies of the batch, its shape and order, and whatever stands at masked positions."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from quantizer_cases import KINDS, D, assert_same, latents, layer, run

CHOICES = [
    {"kind": kind, "mixture_weights": weights, "per_feature": per_feature}
    for kind, weights, per_feature in zip(
        (*KINDS, "albo"),
        ("uniform", "learned", "learned", "uniform"),
        (True, False, False, False),
        strict=True,
    )
] + [{"support": 3, "mixture_weights": "learned", "per_feature": True}]
MASK = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1], dtype=torch.bool)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("nats", [True, False])
def test_copies_of_the_batch_change_nothing(choice, nats) -> None:
    x = latents()
    once, grads = run(layer(**choice), x, nats=nats)
    thrice, copied = run(layer(**choice), x.repeat(3, 1), nats=nats)
    torch.testing.assert_close(thrice.nats, once.nats)
    torch.testing.assert_close(thrice.quantized, once.quantized.repeat(3, 1))
    assert_same(thrice.terms, once.terms)
    copied["latents"] = copied["latents"].unflatten(0, (3, 12)).sum(0)
    assert_same(copied, grads)


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 1, 3, 2), (1, 12, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_leading_shape_changes_nothing(shape, training) -> None:
    built, x = layer().train(training), latents()
    flat = copy.deepcopy(built)(x)
    shaped = built(x.view(*shape, D))
    assert shaped.quantized.shape == (*shape, D)
    assert shaped.indices.shape == shaped.log_variance.shape == shape
    assert shaped.loss.shape == shaped.nats.shape == ()
    torch.testing.assert_close(shaped.quantized.view(12, D), flat.quantized)
    torch.testing.assert_close(shaped.log_variance.view(12), flat.log_variance)
    assert torch.equal(shaped.indices.view(12), flat.indices)
    torch.testing.assert_close(shaped.nats, flat.nats)
    assert_same(shaped.terms, flat.terms)


def test_a_single_vector_and_strided_latents() -> None:
    built, x = layer().eval(), latents()
    assert built(x[0]).indices.shape == ()
    torch.testing.assert_close(built(x[0]).quantized, built(x).quantized[0])
    channels_first = x.view(3, 4, D).movedim(-1, 1).contiguous()
    strided = channels_first.movedim(1, -1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(built(strided).quantized.reshape(12, D), built(x).quantized)


@pytest.mark.parametrize("nats", [True, False])
def test_order_of_positions_changes_nothing(nats) -> None:
    x, order = latents(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    out, grads = run(layer(), x, nats=nats)
    permuted, permuted_grads = run(layer(), x[order], nats=nats)
    torch.testing.assert_close(permuted.quantized, out.quantized[order])
    assert torch.equal(permuted.indices, out.indices[order])
    assert_same(permuted.terms, out.terms)
    assert_same(permuted_grads, {**grads, "latents": grads["latents"][order]})


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("nats", [True, False])
@pytest.mark.parametrize("padding", [0.0, 50.0, math.nan, math.inf])
def test_masked_positions_are_as_good_as_dropped(choice, nats, padding) -> None:
    """Values, terms and the gradient of every parameter, with anything standing at masked positions."""
    x = latents()
    dropped, expected = run(layer(**choice), x[MASK], nats=nats)
    padded = torch.where(MASK[:, None], x, padding)
    out, grads = run(layer(**choice), padded.view(3, 4, D), MASK.view(3, 4), nats=nats)
    torch.testing.assert_close(out.nats, dropped.nats)
    assert_same(out.terms, dropped.terms)
    assert torch.equal(out.indices.flatten()[MASK], dropped.indices)
    assert (out.indices.flatten()[~MASK] == -1).all()
    torch.testing.assert_close(out.quantized.view(12, D)[MASK], dropped.quantized)
    assert (out.quantized.view(12, D)[~MASK] == 0).all()
    torch.testing.assert_close(out.log_variance.flatten()[MASK], dropped.log_variance)
    assert (out.log_variance.flatten()[~MASK] == 0).all()
    of_latents = grads.pop("latents").view(12, D)
    assert (of_latents[~MASK] == 0).all()
    assert_same({**grads, "latents": of_latents[MASK]}, expected)


def test_the_start_sees_valid_positions_only() -> None:
    x = latents(40)
    mask = torch.arange(40) % 3 > 0
    masked, dropped = layer(started=False), layer(started=False)
    masked(torch.where(mask[:, None], x, 1e3), mask)
    dropped(x[mask])
    for name, value in dropped.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value, rtol=0.0, atol=0.0)


def test_masks_in_eval_and_encode() -> None:
    built, x = layer().eval(), latents()
    out = built(x, MASK)
    assert torch.equal(built.encode(x, MASK), out.indices)
    assert torch.equal(out.indices, built.encode(x).masked_fill(~MASK, -1))
    torch.testing.assert_close(built.get_codes_from_indices(out.indices), out.quantized, rtol=0.0, atol=0.0)
    assert_same(out.terms, built(x[MASK]).terms)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_every_position_masked_is_harmless(kind) -> None:
    """No division by zero and no gradient, so that a shard of padding stops no run and moves no parameter."""
    built, x = layer(kind=kind), latents().requires_grad_()
    out = built(x, torch.zeros(12, dtype=torch.bool))
    assert all(torch.isfinite(value).all() for value in out.terms.values())
    (out.quantized.square().sum() + out.loss).backward()
    assert torch.equal(out.nats.detach(), torch.zeros_like(out.nats))
    for name, parameter in built.named_parameters():
        assert parameter.grad is None or (parameter.grad == 0).all(), name
    assert x.grad is not None
    assert (x.grad == 0).all()

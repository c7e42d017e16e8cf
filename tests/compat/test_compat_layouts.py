"""``gmvq.compat.VectorQuantize`` and the class it stands for: layouts, heads, masks and what a state dict keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compat_cases import D, K, Options, build, clusters, lengths, started

from gmvq import compat

#: Arrangement -> arguments, shape of x, shape of indices.
ARRANGEMENTS: dict[str, tuple[Options, tuple[int, ...], tuple[int, ...]]] = {
    "sequence": ({}, (2, 20, D), (2, 20)),
    "one token": ({}, (40, D), (40,)),
    "channels first": ({"channel_last": False}, (2, D, 20), (2, 20)),
    "image": ({"accept_image_fmap": True}, (2, D, 4, 5), (2, 4, 5)),
    "volume": ({"accept_3d_fmap": True}, (2, D, 2, 4, 5), (2, 2, 4, 5)),
    "heads": ({"heads": 3, "codebook_dim": 4}, (2, 20, D), (2, 20, 3)),
    "heads of an image, separate": (
        {"heads": 3, "codebook_dim": 4, "separate_codebook_per_head": True, "accept_image_fmap": True},
        (2, D, 4, 5),
        (2, 4, 5, 3),
    ),
    "fewer dimensions": ({"codebook_dim": 4}, (2, 20, D), (2, 20)),
    "fewer dimensions, normalised": (
        {"codebook_dim": 4, "layernorm_after_project_in": True},
        (2, 20, D),
        (2, 20),
    ),
    "heads of more dimensions": ({"heads": 2, "codebook_dim": 8}, (2, 20, D), (2, 20, 2)),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_shapes_and_gradients_in_training(kind, name) -> None:
    options, shape, wanted = ARRANGEMENTS[name]
    vq = build(kind, **options)
    x = torch.randn(*shape, requires_grad=True)
    quantized, indices, loss = vq(x)
    assert quantized.shape == shape
    assert indices.shape == wanted
    assert indices.dtype == torch.int64
    assert 0 <= int(indices.min()) <= int(indices.max()) < K
    assert loss.shape == ()
    (F.mse_loss(quantized, torch.zeros(shape)) + loss).backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_eval_is_what_its_indices_decode_to(kind, name) -> None:
    """Of an untrained one, too. Theirs does not put heads that share a codebook side by side."""
    options, shape, _ = ARRANGEMENTS[name]
    vq = build(kind, **options).eval()
    x = torch.randn(*shape)
    with torch.no_grad():
        quantized, indices, loss = vq(x)
        again = vq(x)
    if (
        kind is compat.VectorQuantize
        or options.get("heads", 1) == 1
        or "separate_codebook_per_head" in options
    ):
        torch.testing.assert_close(vq.get_output_from_indices(indices), quantized)
    assert torch.equal(again[0], quantized)
    assert torch.equal(again[1], indices)
    assert float(loss) == 0


def test_eval_changes_nothing_once_started(kind) -> None:
    vq = started(kind)
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    vq(clusters(2, 64))
    assert all(torch.equal(value, before[name]) for name, value in vq.state_dict().items())


def test_a_state_dict_brings_everything_along(kind) -> None:
    vq, other = started(kind), build(kind, kmeans_init=True).eval()
    other.load_state_dict(vq.state_dict())
    x = clusters(2, 20)
    for one, two in zip(vq(x), other(x), strict=True):
        assert torch.equal(one, two)


# Masks

MASKED: dict[str, Options] = {
    "sequence": {},
    "channels first": {"channel_last": False},
    "fewer dimensions": {"codebook_dim": 3},
    "fewer dimensions, channels first": {"codebook_dim": 3, "channel_last": False},
    "heads": {"heads": 3, "codebook_dim": 4},
    "heads of fewer dimensions, separate": {
        "heads": 2,
        "codebook_dim": 3,
        "separate_codebook_per_head": True,
    },
}


@pytest.mark.parametrize("name", MASKED)
def test_padding_counts_for_nothing(kind, name) -> None:
    """Padded and packed are one: indices, values, loss, gradients."""
    if kind is not compat.VectorQuantize and MASKED[name].get("codebook_dim"):
        pytest.skip("version 1.32 compares codes between the maps with latents outside, and raises")
    first = name.endswith("channels first")
    vq = started(kind, rotation_trick=False, **MASKED[name]).train()
    _, mask = lengths()
    x = clusters(2, 20).requires_grad_()
    packed = x.detach()[mask][None].requires_grad_()
    outs = []
    for value, own in ((x, mask), (packed, None)):
        out = vq(value.movedim(-1, 1) if first else value, mask=own, freeze_codebook=True)
        outs.append((out[0].movedim(1, -1) if first else out[0], *out[1:]))
        (outs[-1][0].square().sum() + outs[-1][2]).backward()
    (quantized, indices, loss), (packed_quantized, packed_indices, packed_loss) = outs
    assert torch.equal(indices[mask], packed_indices[0])
    torch.testing.assert_close(quantized[mask], packed_quantized[0])
    torch.testing.assert_close(loss, packed_loss)
    assert (indices[~mask] == -1).all()
    assert (quantized[~mask] == 0).all()
    assert x.grad is not None
    assert packed.grad is not None
    assert (x.grad[~mask] == 0).all()
    torch.testing.assert_close(x.grad[mask], packed.grad[0])


def test_lens_are_a_mask(kind) -> None:
    vq = started(kind)
    lens, mask = lengths()
    x = clusters(2, 20)
    for one, two in zip(vq(x, lens=lens), vq(x, mask=mask), strict=True):
        assert torch.equal(one, two)


def test_padding_may_stay_what_it_was(kind) -> None:
    vq = started(kind, return_zeros_for_masked_padding=False)
    _, mask = lengths()
    x = clusters(2, 20)
    quantized, *_ = vq(x, mask=mask)
    assert torch.equal(quantized[~mask], x[~mask])
    assert not torch.equal(quantized[mask], x[mask])

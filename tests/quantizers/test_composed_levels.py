"""Levels of every composition: prefixes that decode, reading one after the other, dropout, and a shared codebook."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compositions import COMPOSITIONS, B, D, build, latents, some

WITH_LEVELS = [name for name in COMPOSITIONS if name.startswith("residual")]


@pytest.mark.parametrize("name", WITH_LEVELS)
def test_any_prefix_of_the_levels_can_be_decoded(name) -> None:
    built: Any = build(name).eval()
    x = latents((200,), seed=5)
    indices = built.encode(x)
    errors = []
    for count in range(1, 4):
        part = built.get_codes_from_indices(indices[:, :count])
        pairs = zip(built.layers, indices[:, :count].T, strict=False)
        total = torch.stack([level.get_codes_from_indices(at) for level, at in pairs]).sum(0)
        torch.testing.assert_close(part, built.decoder_units(total))
        cut = indices.clone()
        cut[:, count:] = -1
        assert torch.equal(built.get_codes_from_indices(cut), part)
        errors.append(float((part - built.decoder_units(x)).detach().square().mean()))
    assert errors[2] < errors[0]


@pytest.mark.parametrize("name", [name for name in COMPOSITIONS if "ragged" not in name][1:])
@pytest.mark.parametrize("units", ["latents", "standardized"])
def test_levels_are_read_one_after_the_other(name, units) -> None:
    if units == "standardized" and name.startswith("pyramid"):
        pytest.skip("a pyramid reads latents")
    built: Any = build(name, dtype=torch.float32, units=units).eval()
    x = latents((B, 5, 4), dtype=torch.float32)
    indices = built.encode(x, some((B, 5, 4)))
    groups = getattr(built, "groups", 1)
    columns = (
        indices.unflatten(-1, (-1, groups)).unbind(-2) if hasattr(built, "groups") else indices.unbind(-1)
    )
    reads = list(built.progressive(iter(columns)))
    for count, read in enumerate(reads, 1):
        assert torch.equal(read, built.get_codes_from_indices(indices[..., : count * groups]))
    assert torch.equal(reads[-1], built(x, some((B, 5, 4))).quantized)
    whole = built.encode(x)
    codes = built.get_codes_of_levels(whole)
    assert codes.shape == (*x.shape[:-1], len(columns), D)
    read = built.decoder_units(codes.sum(-2)) if len(columns) > 1 else codes[..., 0, :]
    torch.testing.assert_close(read, built.get_codes_from_indices(whole))
    torch.testing.assert_close(
        built.get_codes_of_levels(whole[..., :groups]), codes[..., :1, :], rtol=0.0, atol=0.0
    )


def test_level_dropout_cuts_items_at_random_and_leaves_minus_one() -> None:
    built = build("residual, shared, dropout")
    torch.manual_seed(0)
    indices = built(latents((64, 5))).indices
    used = (indices >= 0).sum(-1)
    assert (used == used[:, :1]).all()  # one length for an item
    assert used.min() == 2  # min_levels
    assert used.max() == 3
    assert ((indices >= 0).long().diff(dim=-1) <= 0).all()  # nothing after the cut
    assert (built.eval()(latents((64, 5))).indices >= 0).all()


def test_level_dropout_drops_nothing_before_the_start() -> None:
    built = build("residual, dropout", started=False)
    with pytest.warns(UserWarning, match="latent vectors for"):
        assert (built(latents((1, 3))).indices >= 0).all()


def test_dropped_levels_add_nothing_and_hand_back_no_gradient() -> None:
    built: Any = build("residual, dropout")
    x = latents((16, 3)).requires_grad_()
    out = built(x)
    dropped = (out.indices[..., -1] < 0).nonzero()[:, 0].unique()
    assert 0 < len(dropped) < 16
    last = built.layers[-1].codebook
    (of_dropped,) = torch.autograd.grad(out.quantized[dropped].sum(), last, retain_graph=True)
    (of_all,) = torch.autograd.grad(out.quantized.sum(), last)
    assert (of_dropped == 0).all()
    assert (of_all != 0).any()
    assert (out.log_variance[dropped][..., -1] == 0).all()


def test_shared_codebook_is_one_parameter_with_a_scale_for_each_level() -> None:
    built: Any = build("residual, shared")
    assert len({id(level.codebook) for level in built.layers}) == 1
    assert len({float(level.scale) for level in built.layers}) == 3
    assert len(list(built.parameters())) == len({id(p) for p in built.parameters()})

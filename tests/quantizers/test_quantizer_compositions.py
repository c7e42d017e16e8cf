"""One contract over every composition: levels, groups, heads, projections, layouts, masks and lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compositions import COMPOSITIONS, SPATIAL, B, D, K, build, index_shape, latents, masked_first
from quantizer_cases import assert_same
from torch import Tensor

from gmvq import (
    ChannelsFirst,
    GaussianMixtureVQ,
    GroupedGMVQ,
    ResidualGMVQ,
)
from gmvq.models import VQAutoencoder, build_networks
from gmvq.quantizers import from_config, mask_from_lengths

#: The compositions that are compiled and exported, which takes seconds: each part is in one of them, but for the
#: dropping of levels, whose draw is another one when compiled: see ``training/test_compiled.py``.
COMPILED = [
    "residual, projected",
    "residual, shared, beam",
    "heads of levels",
    "pyramid",
    "ragged",
]


@pytest.fixture(params=COMPOSITIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SPATIAL)
def spatial(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SPATIAL[request.param]


def test_shapes_and_ranges(name, spatial) -> None:
    built = build(name, noise=1.0)
    x, mask = masked_first(built, spatial)
    for training in (True, False):
        out = built.train(training)(x, mask)
        assert out.quantized.shape == x.shape
        assert out.indices.shape == (*x.shape[:-1], *index_shape(built)) == out.log_variance.shape
        assert out.indices.dtype == torch.int64
        assert (out.indices[~mask] == -1).all()
        assert (out.quantized[~mask] == 0).all()
        assert out.indices.max() < K
        assert out.loss.shape == out.nats.shape == ()
        assert {"perplexity", "kl_aggregate", "conditional_entropy"} <= out.terms.keys()


def test_decoding_the_indices_is_the_eval_forward_exactly(name, spatial) -> None:
    built = build(name, dtype=torch.float32).eval()
    x, mask = masked_first(built, spatial)
    out = built(x.float(), mask)
    assert torch.equal(built.get_codes_from_indices(out.indices), out.quantized)
    assert torch.equal(built.encode(x.float(), mask), out.indices)


def test_masked_positions_change_nothing(name, spatial) -> None:
    results = []
    for filler in (0.0, 1e4, float("nan")):
        torch.manual_seed(11)
        built = build(name, noise=1.0)
        x, mask = masked_first(built, spatial)
        x = torch.where(mask[..., None], x, filler).requires_grad_()
        torch.manual_seed(12)
        out = built(x, mask)
        (out.quantized.sin().sum() + out.loss).backward()
        grads = {key: p.grad for key, p in built.named_parameters() if p.grad is not None}
        results.append({"quantized": out.quantized, "nats": out.nats, **out.terms, **grads})
        assert x.grad is not None
        assert (x.grad[~mask] == 0).all()
    for other in results[1:]:
        assert_same(other, results[0], rtol=0.0, atol=0.0)


def test_gradient_reaches_every_parameter(name) -> None:
    built = build(name)
    out = built(latents((B, 25)))
    (out.quantized.square().mean() + out.loss).backward()
    for key, parameter in built.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert (parameter.grad != 0).any(), key


def test_eval_changes_no_state(name) -> None:
    built = build(name).eval()
    before = {key: value.clone() for key, value in built.state_dict().items()}
    built(latents((B, 5)))
    assert_same(built.state_dict(), before, rtol=0.0, atol=0.0)


def test_config_and_weights_restore_the_quantizer(name) -> None:
    built: Any = build(name, dtype=torch.float32).eval()
    again = from_config(built.to_config())
    again.load_state_dict(built.state_dict())
    x = latents((B, 5), dtype=torch.float32)
    assert torch.equal(again.eval()(x).quantized, built(x).quantized)
    assert type(again) is type(built)


def test_first_batch_starts_it(name) -> None:
    built: Any = build(name, started=False)
    built(latents((64, 2)))
    assert all(level.started for level in getattr(built, "mixtures", [built]))
    out = built.eval()(latents((64, 2)))
    read = built.decoder_units(latents((64, 2)))
    assert (out.quantized - read).square().mean() < 0.8


def test_schedules_advance(name) -> None:
    built = build(name)
    kind, options = COMPOSITIONS[name]
    built = kind(D, **{"codebook_size": K} | options)
    built.set_progress(1.0)
    ends = [value for key, value in built.state_dict().items() if key.endswith("sample_noise")]
    assert all(float(value) == 0.0 for value in ends)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out(name, dtype) -> None:
    built = build(name, dtype=torch.float32)
    x = latents((B, 5), dtype=dtype)
    with torch.autocast("cpu", dtype):
        out = built(x)
        assert out.quantized.dtype == dtype
        whole = build(name, dtype=torch.float32)(x.float())
        torch.testing.assert_close(out.quantized.float(), whole.quantized, rtol=0.02, atol=0.05)
        built.eval()
        assert torch.equal(built.get_codes_from_indices(built(x.float()).indices), built(x.float()).quantized)


# Adapters


@pytest.mark.parametrize("axes", ["1d", "2d", "3d"])
def test_channels_first_is_the_quantizer_on_moved_axes(name, axes) -> None:
    spatial = SPATIAL[axes]
    built = build(name).eval()
    adapter = ChannelsFirst(built)
    x, mask = masked_first(built, spatial)
    out, expected = adapter(x.movedim(-1, 1), mask), built(x, mask)
    torch.testing.assert_close(out.quantized, expected.quantized.movedim(-1, 1))
    assert torch.equal(out.indices, expected.indices)
    assert torch.equal(adapter.encode(x.movedim(-1, 1), mask), expected.indices)
    assert torch.equal(adapter.get_codes_from_indices(out.indices), out.quantized)


@pytest.mark.parametrize("axes", ["1d", "2d", "3d"])
@pytest.mark.parametrize("each", [False, True])
def test_lengths_are_masks(name, axes, each) -> None:
    spatial = SPATIAL[axes]
    limits = torch.tensor(spatial)
    lengths = torch.stack([limits, limits - 1, limits - limits + 1, limits * 0])
    lengths = lengths if each else lengths[:, 0]
    mask = mask_from_lengths(lengths, spatial)
    counts = lengths.prod(-1) if each else lengths * limits[1:].prod()
    assert torch.equal(mask.flatten(1).sum(-1), counts)
    x = latents((B, *spatial)).movedim(-1, 1)
    adapter = ChannelsFirst(build(name).eval())
    assert torch.equal(adapter(x, lengths=lengths).indices, adapter(x, mask).indices)


def test_wrong_lengths_and_layouts_say_what_is_expected() -> None:
    adapter = ChannelsFirst(build("residual"))
    x = latents((B, 7)).movedim(-1, 1)
    with pytest.raises(ValueError, match="between 0 and the sizes"):
        adapter(x, lengths=torch.tensor([7, 8, 1, 1]))
    with pytest.raises(TypeError, match="integer"):
        adapter(x, lengths=torch.ones(B))
    with pytest.raises(ValueError, match="not both"):
        adapter(x, torch.ones(B, 7, dtype=torch.bool), lengths=torch.ones(B, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(B, 8, \*spatial\)"):
        adapter(latents((B, 7)))
    with pytest.raises(ValueError, match=r"shape \(B,\) or"):
        adapter(x, lengths=torch.ones(B, 2, dtype=torch.int64))


# Bad input


def test_bad_arguments_say_what_is_expected() -> None:
    with pytest.raises(ValueError, match="multiple of groups"):
        GroupedGMVQ(10, K, groups=4)
    with pytest.raises(ValueError, match="sizes of 2 levels"):
        ResidualGMVQ(D, [4, 4], 3)
    with pytest.raises(ValueError, match="shared codebook has one size"):
        ResidualGMVQ(D, [4, 5], shared_codebook=True)
    with pytest.raises(ValueError, match="beam must be positive"):
        ResidualGMVQ(D, 4, beam=0)
    with pytest.raises(ValueError, match="min_levels"):
        ResidualGMVQ(D, K, 2, min_levels=3)
    with pytest.raises(ValueError, match="first m of 3 levels"):
        build("residual").get_codes_from_indices(torch.zeros(5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="one for each group"):
        build("grouped").get_codes_from_indices(torch.zeros(5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"lie in \[0, 5\]"):
        build("grouped").get_codes_from_indices(torch.full((5, 2), K))
    with pytest.raises(ValueError, match="codebook_dim"):
        GaussianMixtureVQ(D, K, codebook_dim=0)
    with pytest.raises(ValueError, match="last axis"):
        build("heads")(torch.randn(3, D + 1))


# Compile, export, a whole model


@pytest.mark.parametrize("name", COMPILED)
def test_encode_and_decode_export(name) -> None:
    built = build(name, dtype=torch.float32).eval()

    class Codec(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = built

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            indices = self.inner.encode(x)
            return indices, self.inner.get_codes_from_indices(indices)

    x = latents((9,), dtype=torch.float32)
    program = torch.export.export(Codec(), (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    more = latents((21,), seed=4, dtype=torch.float32)
    indices, codes = program.module()(more)
    assert torch.equal(indices, built.encode(more))
    torch.testing.assert_close(codes, built(more).quantized)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_training_equals_eager(name) -> None:
    torch.compiler.reset()
    x = latents((B, 25))
    results = []
    for compiled in (False, True):
        built = build(name)
        if compiled:
            built.compile(fullgraph=True, backend="aot_eager")
        torch.manual_seed(7)
        out = built(x)
        (out.quantized.square().mean() + out.loss).backward()
        results.append({key: p.grad for key, p in built.named_parameters() if p.grad is not None})
    assert_same(results[1], results[0])


@pytest.mark.parametrize("name", ["residual, projected", "heads", "pyramid"])
def test_an_autoencoder_around_it_saves_and_loads(name, tmp_path) -> None:
    built = build(name, dtype=torch.float32)
    encoder, decoder = build_networks("tiny", channels=1, dim=D, downsample=4)
    model = VQAutoencoder(encoder, built, decoder).eval()
    images = torch.rand(2, 1, 16, 16)
    tokens = model.encode(images)
    assert tokens.shape == (2, 4, 4, *index_shape(built))
    assert torch.equal(model.decode(tokens), model.reconstruct(images))
    model.save_pretrained(tmp_path)
    again = VQAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(images), tokens)

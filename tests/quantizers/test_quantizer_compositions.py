"""One contract over every composition: levels, groups, heads, projections, layouts, masks and lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quantizer_cases import assert_same, move
from torch import Tensor

from gmvq import (
    ChannelsFirst,
    GaussianMixtureVQ,
    GroupedGMVQ,
    GumbelSoftmax,
    PyramidGMVQ,
    RaggedGMVQ,
    ResidualGMVQ,
    Variance,
)
from gmvq.functional.schedules import Constant
from gmvq.models import VQAutoencoder, build_networks
from gmvq.quantizers import Quantizer, from_config, mask_from_lengths

D, K, B = 8, 6, 4
SPATIAL = {"none": (), "1d": (7,), "2d": (3, 5), "3d": (2, 3, 4)}

#: name -> (class, its options)
COMPOSITIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "projected": (GaussianMixtureVQ, {"codebook_dim": 3}),
    "residual": (ResidualGMVQ, {"num_quantizers": 3, "codebook_dim": None}),
    "residual, projected": (ResidualGMVQ, {"num_quantizers": 3, "codebook_dim": 3}),
    "residual, shared": (ResidualGMVQ, {"num_quantizers": 3, "shared_codebook": True, "codebook_dim": 3}),
    "residual, dropout": (ResidualGMVQ, {"num_quantizers": 3, "level_dropout": True}),
    "residual, shared, dropout": (
        ResidualGMVQ,
        {"num_quantizers": 3, "shared_codebook": True, "level_dropout": True, "min_levels": 2},
    ),
    "residual, beam": (ResidualGMVQ, {"num_quantizers": 3, "beam": 3}),
    "residual, shared, beam": (ResidualGMVQ, {"num_quantizers": 3, "shared_codebook": True, "beam": 2}),
    "residual, sizes": (ResidualGMVQ, {"codebook_size": [6, 4, 3], "codebook_dim": 3}),
    "grouped": (GroupedGMVQ, {"groups": 2, "codebook_dim": None}),
    "grouped residual": (GroupedGMVQ, {"groups": 2, "num_quantizers": 3}),
    "grouped residual, beam, dropout": (
        GroupedGMVQ,
        {"groups": 2, "codebook_size": [6, 3], "beam": 2, "level_dropout": True},
    ),
    "heads of levels": (GroupedGMVQ, {"groups": 2, "num_quantizers": 2, "shared_codebook": True}),
    "grouped, projected": (GroupedGMVQ, {"groups": 2, "codebook_dim": 3}),
    "pyramid": (PyramidGMVQ, {"scales": 3}),
    "pyramid, projected": (PyramidGMVQ, {"scales": 2, "codebook_dim": 3}),
    "pyramid, sizes": (PyramidGMVQ, {"codebook_size": [3, 6, 4], "shared_codebook": False}),
    "ragged": (RaggedGMVQ, {"scales": 3}),
    "ragged, projected": (RaggedGMVQ, {"scales": 2, "codebook_dim": 3, "units": "standardized"}),
    "heads": (GroupedGMVQ, {"groups": 4, "shared_codebook": True}),
    "heads, projected": (GroupedGMVQ, {"groups": 2, "shared_codebook": True, "codebook_dim": 3}),
}
#: The compositions that are compiled and exported, which takes seconds: each part is in one of them, but for the
#: dropping of levels, whose draw is another one when compiled: see ``training/test_compiled.py``.
COMPILED = [
    "residual, projected",
    "residual, shared, beam",
    "heads of levels",
    "pyramid",
    "ragged",
]
WITH_LEVELS = [name for name in COMPOSITIONS if name.startswith("residual")]


def build(
    name: str, *, noise: float = 0.0, started: bool = True, dtype: torch.dtype = torch.float64, **more: Any
) -> Quantizer:
    """A training quantizer on all codes, started on data and moved off the optimum; without noise by default."""
    torch.manual_seed(3)
    kind, options = COMPOSITIONS[name]
    estimator = GumbelSoftmax(temperature=Constant(0.7), noise=Constant(noise))
    sizes = {"codebook_size": K} | options | more
    built = kind(D, estimator=estimator, variance=Variance(noise=Constant(noise)), support=None, **sizes).to(
        dtype
    )
    if started:
        built.init_codebook(latents((64,), seed=5, dtype=dtype))
        move(built)
    return built


def latents(lead: tuple[int, ...], *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, D, generator=generator, dtype=torch.float64).to(dtype)


def some(lead: tuple[int, ...]) -> Tensor:
    """A mask with a third of the positions off."""
    return torch.arange(torch.Size(lead).numel()).reshape(lead) % 3 != 1


def masked_first(built: Quantizer, spatial: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    lead = (B, *spatial)
    return latents(lead), some(lead)


@pytest.fixture(params=COMPOSITIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SPATIAL)
def spatial(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SPATIAL[request.param]


def index_shape(built: Quantizer) -> tuple[int, ...]:
    return getattr(built, "index_shape", ())


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


# Levels


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

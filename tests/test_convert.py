"""Codebooks of other libraries: the same indices and values as theirs, of modules and of checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq import ChannelsFirst, GaussianMixtureVQ, VQAutoencoder
from gmvq.convert import from_state_dict, from_vector_quantize
from gmvq.quantizers import from_config

D, K, N = 16, 256, 100_000


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("vector_quantize_pytorch")


def latents(count: int = N, dim: int = D, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 2.0 * torch.randn(1, count, dim, generator=generator)


def trained(module: Any, image: bool = False) -> Any:
    """A few batches, so that the codebook is one that training has made."""
    torch.manual_seed(0)
    module.train()
    for seed in range(3):
        x = latents(2048, seed=seed + 1)
        module(x.movedim(1, 2).unflatten(-1, (32, 64)) if image else x)
    return module.eval()


@torch.no_grad()
def compare(ours: Tensor, quantized: Tensor, other: Tensor, other_quantized: Tensor) -> None:
    """Equal but for a few positions of 100,000 at which two codes are equally near in float32; values bit by bit."""
    same = ours == other
    assert float((~same).float().mean()) <= 1e-4
    rows = same if same.ndim < quantized.ndim else same.all(-1)
    assert torch.equal(quantized[rows], other_quantized[rows])


#: name -> arguments of their VectorQuantize beside dim and codebook_size
SINGLE: dict[str, dict[str, Any]] = {
    "ema": {},
    "ema, k-means, replacement": {"kmeans_init": True, "threshold_ema_dead_code": 2},
    "learnable": {"learnable_codebook": True, "ema_update": False},
    "affine": {"affine_param": True},
    "cosine": {"use_cosine_sim": True},
    "heads": {"heads": 4, "codebook_dim": 4},
    "heads, separate": {"heads": 4, "codebook_dim": 4, "separate_codebook_per_head": True},
    "heads, separate, cosine": {
        "heads": 2,
        "codebook_dim": 8,
        "separate_codebook_per_head": True,
        "use_cosine_sim": True,
    },
}


@pytest.mark.parametrize("name", SINGLE)
def test_vector_quantize(theirs, name) -> None:
    module = trained(theirs.VectorQuantize(D, K, **SINGLE[name]))
    x = latents(N if name in ("ema", "cosine") else N // 5)
    with torch.no_grad():
        quantized, indices, _ = module(x)  # first, as affine parameters follow every batch, in eval too
    ours: Any = from_vector_quantize(module)
    out = ours(x)
    assert out.indices.shape == indices.shape
    compare(out.indices, out.quantized, indices, quantized)
    assert torch.equal(ours.get_codes_from_indices(out.indices), out.quantized)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_residual(theirs, cosine, shared) -> None:
    options = {"shared_codebook": shared, "use_cosine_sim": cosine}
    module = trained(theirs.ResidualVQ(dim=D, codebook_size=64, num_quantizers=4, **options))
    ours: Any = from_vector_quantize(module)
    x = latents(N // 5)
    with torch.no_grad():
        quantized, indices, _ = module(x)
    out = ours(x)
    compare(out.indices, out.quantized, indices, quantized)


def test_residual_of_several_sizes_with_dropout(theirs) -> None:
    sizes = (64, 32, 16)
    module = trained(
        theirs.ResidualVQ(dim=D, codebook_size=sizes, quantize_dropout=True, quantize_dropout_cutoff_index=1)
    )
    ours: Any = from_vector_quantize(module)
    assert (ours.codebook_sizes, ours.level_dropout, ours.min_levels) == (sizes, True, 2)
    x = latents(5000)
    with torch.no_grad():
        quantized, indices, _ = module(x)
    compare(ours(x).indices, ours(x).quantized, indices, quantized)
    again = from_config(ours.to_config())
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.eval().encode(x), ours.encode(x))


def test_grouped_residual(theirs) -> None:
    module = trained(theirs.GroupedResidualVQ(dim=D, codebook_size=64, num_quantizers=3, groups=2))
    ours: Any = from_vector_quantize(module)
    x = latents(5000)
    with torch.no_grad():
        quantized, indices, _ = module(x)
    out = ours(x)
    assert indices.shape == (2, 1, 5000, 3)
    compare(out.indices, out.quantized, indices.permute(1, 2, 3, 0).flatten(-2), quantized)


def test_images_and_channels(theirs) -> None:
    module = trained(theirs.VectorQuantize(D, K, accept_image_fmap=True), image=True)
    ours = from_vector_quantize(module)
    assert isinstance(ours, ChannelsFirst)
    x = latents(2 * 64, seed=9).view(2, 8, 8, D).movedim(-1, 1)
    with torch.no_grad():
        quantized, indices, _ = module(x)
    out = ours(x)
    assert torch.equal(out.indices, indices)
    assert torch.equal(out.quantized, quantized)


def test_what_is_inside_of_projections(theirs) -> None:
    module = trained(theirs.VectorQuantize(D, K, codebook_dim=4))
    with pytest.raises(ValueError, match="inner=True"):
        from_vector_quantize(module)
    ours: Any = from_vector_quantize(module, inner=True)
    x = latents(5000)
    with torch.no_grad():
        quantized, indices, _ = module(x)
        out = ours(module.project_in(x))
        compare(out.indices, module.project_out(out.quantized), indices, quantized)


def test_tiny_codes_are_told_apart(theirs) -> None:
    """Diffusers starts with codes of 1 / K: their squares are far below log K, to which the mixture adds them."""
    module = theirs.VectorQuantize(D, K, ema_update=False, learnable_codebook=True).eval()
    with torch.no_grad():
        module._codebook.embed.uniform_(-1 / K, 1 / K)
    ours: Any = from_vector_quantize(module)
    x = latents(20000) / K
    with torch.no_grad():
        compare(ours(x).indices, ours(x).quantized, module(x)[1], module(x)[0])


def test_training_goes_on(theirs) -> None:
    ours: Any = from_vector_quantize(trained(theirs.VectorQuantize(D, K))).train()
    x = latents(1000).requires_grad_()
    before = ours.codebook.detach().clone()
    out = ours(x)
    (F.mse_loss(out.quantized, x) + out.loss).backward()
    ours.eval()
    assert not torch.equal(ours.codebook, before)
    after = (ours(x).quantized - x).square().mean()
    before_training = (out.quantized - x).square().mean().detach()
    assert float(after.detach()) < 1.5 * float(before_training)


def test_what_has_no_counterpart_says_so(theirs) -> None:
    with pytest.raises(TypeError, match="got FSQ"):
        from_vector_quantize(theirs.FSQ([4, 4]))
    with pytest.raises(ValueError, match="not started"):
        from_vector_quantize(theirs.VectorQuantize(D, K, kmeans_init=True))
    with pytest.raises(ValueError, match="QINCo"):
        from_vector_quantize(
            theirs.ResidualVQ(dim=D, codebook_size=K, num_quantizers=2, implicit_neural_codebook=True)
        )
    module = theirs.VectorQuantize(D, K, use_cosine_sim=True)
    module._codebook.embed.mul_(2)
    with pytest.raises(ValueError, match="length one"):
        from_vector_quantize(module)


# Checkpoints


def codes() -> Tensor:
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(3))


CHECKPOINTS: dict[str, tuple[dict[str, Any], bool]] = {
    "diffusers": (
        {"quantize.embedding.weight": codes(), "quant_conv.weight": torch.zeros(4, 4, 1, 1)},
        False,
    ),
    "taming": ({"state_dict": {"quantize.embedding.weight": codes(), "loss.x": torch.zeros(1)}}, False),
    "taming, EMA": (
        {
            "state_dict": {
                "quantize.embedding.weight": codes(),
                "quantize.embedding.cluster_size": torch.ones(32),
            }
        },
        False,
    ),
    "latent diffusion": ({"state_dict": {"first_stage_model.quantize.embedding.weight": codes()}}, False),
    "LlamaGen": (
        {"model": {"quantize.embedding.weight": codes(), "quantize.codebook_used": torch.zeros(65536)}},
        True,
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_by_their_keys(name) -> None:
    state, cosine = CHECKPOINTS[name]
    ours = from_state_dict(state)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    flat, book = x.movedim(1, -1).reshape(-1, 4).double(), codes().double()
    if cosine:
        flat, book = F.normalize(flat, dim=-1), F.normalize(book, dim=-1)
    indices = torch.cdist(flat, book).argmin(-1).view(2, 8, 8)
    out = ours(x)
    assert torch.equal(out.indices, indices)
    expected = F.normalize(codes(), dim=-1) if cosine else codes()
    assert torch.equal(out.quantized, expected[indices].movedim(-1, 1))


def test_a_diffusers_model_as_a_tokenizer() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.VQModel(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, num_vq_embeddings=64, sample_size=16
    ).eval()
    encoder = nn.Sequential(model.encoder, model.quant_conv)
    decoder = nn.Sequential(model.post_quant_conv, model.decoder)
    inner = from_state_dict(model.state_dict()).quantizer
    tokenizer = VQAutoencoder(encoder, inner, decoder).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        hidden = model.encode(x).latents
        _, _, (_, _, indices) = model.quantize(hidden)
        assert torch.equal(tokenizer.encode(x).flatten(), indices)
        torch.testing.assert_close(tokenizer.reconstruct(x), model.decode(hidden).sample)


def test_checkpoints_without_a_codebook_say_so() -> None:
    with pytest.raises(ValueError, match=r"no codebook in this checkpoint.*encoder\.weight"):
        from_state_dict({"encoder.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="Gumbel"):
        from_state_dict({"quantize.embed.weight": codes(), "quantize.proj.weight": torch.zeros(32, 4, 1, 1)})
    assert isinstance(
        from_state_dict({"quantize.embedding.weight": codes()}, cosine=True).quantizer, GaussianMixtureVQ
    )

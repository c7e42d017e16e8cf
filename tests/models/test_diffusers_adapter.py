"""The interface of diffusers' VQModel, and pipelines of diffusers that run with it from end to end."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, GroupedGMVQ, ResidualGMVQ
from gmvq.models import GMVQModel, VQAutoencoder, build_autoencoder


def tokenizer(dim: int = 4, **options: Any) -> VQAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder("tiny", dim=dim, codebook_size=16, **options)
    with torch.no_grad():
        model.quantizer.init_codebook(model._latents(torch.rand(8, 3, 16, 16)))  # pyright: ignore
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def diffusers(*names: str) -> list[Any]:
    """Classes of diffusers, or a skip that says which of them cannot be imported."""
    package = pytest.importorskip("diffusers", reason="the package diffusers is not installed")
    try:
        found = [getattr(package, name) for name in names]
    except Exception as error:  # its lazy imports fail in many ways, with RuntimeError among them
        pytest.skip(f"diffusers cannot import {', '.join(names)}: {str(error).splitlines()[0]}")
    lacking = [kind.__name__ for kind in found if "dummy" in kind.__module__]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} of diffusers need a package that is not installed")
    return found


def test_it_computes_what_the_model_computes(images: Tensor) -> None:
    model = tokenizer()
    vqvae = GMVQModel(model)
    latents = vqvae.encode(2 * images - 1).latents
    assert latents.shape == (2, 4, 4, 6)
    restored = vqvae.decode(latents).sample / 2 + 0.5
    torch.testing.assert_close(restored, model.reconstruct(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(vqvae(2 * images - 1).sample, 2 * restored - 1, atol=1e-5, rtol=0)
    unit = GMVQModel(model, signed=False)
    torch.testing.assert_close(unit(images).sample, model.reconstruct(images), atol=0, rtol=0)


def test_outputs_by_name_by_key_and_as_tuples(images: Tensor) -> None:
    vqvae = GMVQModel(tokenizer())
    out = vqvae.encode(images)
    assert torch.equal(out.latents, out["latents"])
    assert torch.equal(out.latents, out[0])
    assert torch.equal(out.latents, vqvae.encode(images, return_dict=False)[0])
    decoded = vqvae.decode(out.latents)
    sample, loss = vqvae.decode(out.latents, return_dict=False)
    assert torch.equal(decoded["sample"], sample)
    assert torch.equal(decoded.commit_loss, loss)
    assert isinstance(vqvae(images, return_dict=False), tuple)
    with pytest.raises(AttributeError):
        _ = out.sample


def test_quantize_and_look_up(images: Tensor) -> None:
    model = tokenizer()
    vqvae = GMVQModel(model)
    latents = vqvae.encode(2 * images - 1).latents
    quantized, loss, (perplexity, encodings, indices) = vqvae.quantize(latents)
    assert quantized.shape == latents.shape
    assert loss.ndim == perplexity.ndim == 0
    assert encodings is None
    assert torch.equal(indices.reshape(2, 4, 6), model.encode(images))
    entries = vqvae.quantize.get_codebook_entry(indices, shape=(2, 4, 6, 4))
    assert torch.equal(entries, quantized)
    assert torch.equal(vqvae.quantize.embedding.weight[indices], vqvae.quantize.get_codebook_entry(indices))
    as_they_are = vqvae.decode(quantized, force_not_quantize=True).sample
    torch.testing.assert_close(as_they_are, vqvae.decode(latents).sample, atol=0, rtol=0)
    lookup = GMVQModel(model, lookup_from_codebook=True)
    found = lookup.decode(indices, force_not_quantize=True, shape=(2, 4, 6, 4)).sample
    torch.testing.assert_close(found, as_they_are, atol=0, rtol=0)


@pytest.mark.parametrize(
    "quantizer",
    [
        GaussianMixtureVQ(4, 16),
        GaussianMixtureVQ(4, 16, codebook_dim=2),
        GaussianMixtureVQ(4, 16, units="latents", codebook_dim=2),
        ResidualGMVQ(4, 16, 2),
        GroupedGMVQ(4, 16, 2, shared_codebook=True),
        GroupedGMVQ(4, 16, 2, codebook_dim=1),
    ],
    ids=str,
)
def test_latents_are_what_the_decoder_reads(quantizer: Any, images: Tensor) -> None:
    """Quantized or not, whatever the encoder's units: pipelines decode both (``force_not_quantize``)."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", quantizer=quantizer)
    with torch.no_grad():
        raw = 30.0 * torch.randn(64, 4) + 7.0
        quantizer.init_codebook(raw)
        for name, matrix in quantizer.named_parameters():
            if "project" in name:  # training moves them apart
                matrix += 0.3 * torch.randn_like(matrix)
        model.encoder = nn.Sequential(model.encoder, _Affine(30.0, 7.0))
        vqvae = GMVQModel(model.eval(), channels=3, downsample=4, signed=False)
        latents = vqvae.encode(images).latents
        quantized, _, info = vqvae.quantize(latents)
        assert torch.equal(info.indices.reshape(model.encode(images).shape), model.encode(images))
        torch.testing.assert_close(vqvae.decode(latents).sample, model.reconstruct(images))
        error = (quantized - latents).square().mean()
        assert error < 0.7 * (latents - latents.mean()).square().mean()


class _Affine(nn.Module):
    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x / x.std() + self.shift


@pytest.mark.parametrize("downsample", [4, 8, 16])
def test_config(downsample: int) -> None:
    vqvae = GMVQModel(build_autoencoder("tiny", dim=6, downsample=downsample), scaling_factor=0.3)
    config = vqvae.config
    assert 2 ** (len(config.block_out_channels) - 1) == downsample
    assert (config.in_channels, config.latent_channels, config.vq_embed_dim) == (3, 6, 6)
    assert config["scaling_factor"] == config.scaling_factor == 0.3
    assert vqvae.dtype == torch.float32
    assert vqvae.half().dtype == torch.float16
    assert vqvae.device == torch.device("cpu")
    with pytest.raises(AttributeError, match="there is no 'shift_factor' here; there are: in_channels"):
        _ = config.shift_factor


def test_saved_models_and_their_spread(tmp_path: Path, images: Tensor) -> None:
    model = tokenizer()
    model.save_pretrained(tmp_path)
    vqvae = GMVQModel.from_pretrained(str(tmp_path), scaling_factor=2.0, torch_dtype=torch.bfloat16)
    assert vqvae.dtype == torch.bfloat16
    assert vqvae.config.scaling_factor == 2.0
    signed = 2 * images - 1
    assert GMVQModel(model).latent_std(signed) == pytest.approx(
        float(GMVQModel(model).encode(signed).latents.detach().std())
    )


def test_other_networks_and_what_does_not_fit(images: Tensor) -> None:
    custom = VQAutoencoder(nn.Conv2d(3, 4, 4, 4), GaussianMixtureVQ(4, 8), nn.ConvTranspose2d(4, 3, 4, 4))
    with pytest.raises(ValueError, match="pass channels= and downsample="):
        GMVQModel(custom)
    custom.quantizer.init_codebook(torch.randn(64, 4))
    assert GMVQModel(custom, channels=3, downsample=4)(images).sample.shape == images.shape
    with pytest.raises(ValueError, match="a power of two for downsample, got 6"):
        GMVQModel(custom, channels=3, downsample=6)
    with pytest.raises(ValueError, match="expected a model of images, got one with 1 spatial axes"):
        GMVQModel(build_autoencoder("tiny", spatial_dims=1))


def test_the_interface_is_that_of_vqmodel() -> None:
    (theirs,) = diffusers("VQModel")
    for name in ("encode", "decode", "forward"):
        expected = list(inspect.signature(inspect.unwrap(getattr(theirs, name))).parameters.values())
        found = list(inspect.signature(getattr(GMVQModel, name)).parameters.values())
        assert [(p.name, p.default) for p in found] == [(p.name, p.default) for p in expected], name
    stored = GMVQModel(tokenizer()).config
    theirs_config = theirs(block_out_channels=(32,), norm_num_groups=32).config
    read = {"in_channels", "out_channels", "block_out_channels", "latent_channels", "vq_embed_dim"}
    read |= {
        "num_vq_embeddings",
        "scaling_factor",
        "sample_size",
        "force_upcast",
        "lookup_from_codebook",
        "norm_type",
    }
    assert read <= stored.keys()
    assert read <= theirs_config.keys()


def unet(unet_class: Any, channels: int, out: int, size: int) -> Any:
    torch.manual_seed(0)
    return unet_class(
        sample_size=size,
        in_channels=channels,
        out_channels=out,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def test_unconditional_latent_diffusion() -> None:
    pipeline_class, unet_class, scheduler = diffusers("LDMPipeline", "UNet2DModel", "DDIMScheduler")
    vqvae = GMVQModel(tokenizer(), scaling_factor=0.5)
    pipeline = pipeline_class(vqvae=vqvae, unet=unet(unet_class, 4, 4, 8), scheduler=scheduler()).to("cpu")
    pipeline.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 2, "batch_size": 2}
    found = pipeline(**run, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert found.shape == (2, 32, 32, 3)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    image = pipeline(**run, generator=torch.Generator().manual_seed(0)).images[0]
    assert isinstance(image, Image.Image)
    assert image.size == (32, 32)


def test_super_resolution() -> None:
    names = ("LDMSuperResolutionPipeline", "UNet2DModel", "DDIMScheduler")
    pipeline_class, unet_class, scheduler = diffusers(*names)
    vqvae = GMVQModel(tokenizer(dim=3))
    pipeline = pipeline_class(vqvae=vqvae, unet=unet(unet_class, 6, 3, 32), scheduler=scheduler())
    pipeline.set_progress_bar_config(disable=True)
    low = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    image = pipeline(low, num_inference_steps=2, eta=1).images[0]
    assert image.size == (128, 128)


def test_amused_decodes_indices() -> None:
    """The pipeline of discrete tokens: its transformer draws indices, which are looked up in our codebook."""
    names = ("AmusedPipeline", "UVit2DModel", "AmusedScheduler")
    pipeline_class, transformer_class, scheduler = diffusers(*names)
    torch.manual_seed(0)
    transformer = transformer_class(
        hidden_size=8,
        use_bias=False,
        hidden_dropout=0.0,
        cond_embed_dim=8,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=8,
        vocab_size=32,
        codebook_size=16,
        in_channels=8,
        block_out_channels=8,
        num_res_blocks=1,
        downsample=True,
        upsample=True,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        attention_dropout=0.0,
        intermediate_size=8,
        layer_norm_eps=1e-6,
        ln_elementwise_affine=True,
    ).eval()
    vqvae = GMVQModel(tokenizer(), lookup_from_codebook=True, signed=False)
    pipeline = pipeline_class(
        vqvae=vqvae,
        tokenizer=None,
        text_encoder=None,
        transformer=transformer,
        scheduler=scheduler(mask_token_id=31),
    )
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        prompt_embeds=torch.randn(1, 8),
        encoder_hidden_states=torch.randn(1, 3, 8),
        negative_prompt_embeds=torch.randn(1, 8),
        negative_encoder_hidden_states=torch.randn(1, 3, 8),
        height=32,
        width=32,
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert found.shape == (1, 32, 32, 3)
    assert np.isfinite(found).all()

"""``GMVQModel``: a tokenizer with the interface of diffusers' ``VQModel``, for the pipelines written for that.

Images are in [-1, 1] there (Amused: in [0, 1]) and in [0, 1] here; latents are (B, D, h, w) on both sides, and here in
the units in which the decoder reads them, quantized or not: a mixture standardises them. This file does not import
diffusers and works without it; its results are found by name, by position and by key, as pipelines look them up.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .autoencoder import VQAutoencoder
from .interface import decode_latents, device_of, feature_axis, networks_of


class Config(OrderedDict[str, Any]):
    """Entries by key, by name and by position, as pipelines read settings and results: ``config.in_channels``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"there is no {name!r} here; there are: {', '.join(self)}") from None

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class QuantizeInfo(NamedTuple):
    """The third result of ``GMVQModel.quantize``."""

    perplexity: Tensor
    encodings: None
    indices: Tensor


class _Quantize(nn.Module):
    """``vqvae.quantize``: channels first; callable, with ``get_codebook_entry``."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer: Any = quantizer
        self.n_e, self.vq_embed_dim = self.quantizer.codebook_size, self.quantizer.dim

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, QuantizeInfo]:
        """Latents (B, D, h, w) to quantized ones, the loss, and (perplexity, None, indices (B * h * w,))."""
        latents = latents.movedim(1, -1)
        undo = getattr(self.quantizer, "from_decoder_units", None)
        out = self.quantizer(latents if undo is None else undo(latents))
        perplexity = out.terms.get("perplexity", out.loss.new_zeros(()))
        indices = out.indices.reshape(-1, *out.indices.shape[latents.ndim - 1 :])
        return out.quantized.movedim(-1, 1), out.loss, QuantizeInfo(perplexity, None, indices)

    def get_codebook_entry(self, indices: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """Codewords (..., D) of indices, or (B, D, h, w) where ``shape`` (B, h, w, D) is given."""
        codes = self.quantizer.get_codes_from_indices(indices.long())
        return codes if shape is None else codes.reshape(tuple(shape)).movedim(-1, 1).contiguous()

    @property
    def embedding(self) -> Config:
        """The codewords (K, D) as its ``weight``; of quantizers with one index per position."""
        numbers = torch.arange(self.n_e, device=device_of(self.quantizer))
        return Config(weight=self.quantizer.get_codes_from_indices(numbers))


class GMVQModel(nn.Module):
    """A ``VQAutoencoder`` behind the interface of ``diffusers.VQModel``.

    Give it to a pipeline as its ``vqvae``, ``movq`` or ``vqgan``: ``LDMPipeline(vqvae=GMVQModel(model), unet=unet,
    scheduler=scheduler)``. A pipeline with it runs and moves between devices; to save one, save the tokenizer by
    itself (``adapter.model.save_pretrained``).

    Args:
        model: the tokenizer, of images (two spatial axes). It is shared, not copied.
        scaling_factor: what a latent-diffusion pipeline multiplies latents with; 1 / ``latent_std(images)`` gives the
            unit variance that diffusion models expect.
        lookup_from_codebook: with ``decode(h, force_not_quantize=True)``, h holds indices (as for Amused), not latents.
        signed: images are in [-1, 1]; False: in [0, 1], as Amused has them.
        channels, downsample: of networks that are not this package's own.

    Raises:
        ValueError: the networks do not say what they take, or are not for images.

    Example:
        >>> vqvae = GMVQModel.from_pretrained("runs/photos/model")
        >>> latents = vqvae.encode(2 * images - 1).latents
        >>> restored = vqvae.decode(latents).sample / 2 + 0.5
    """

    def __init__(
        self,
        model: VQAutoencoder,
        *,
        scaling_factor: float = 1.0,
        lookup_from_codebook: bool = False,
        signed: bool = True,
        channels: int | None = None,
        downsample: int | None = None,
    ) -> None:
        super().__init__()
        networks = networks_of(model)
        channels, downsample = channels or networks.get("channels"), downsample or networks.get("downsample")
        if not channels or not downsample:
            raise ValueError(
                "the networks of this model do not say what they take; pass channels= and downsample= (pixels per "
                "latent position along each axis)"
            )
        if networks.get("spatial_dims", 2) != 2:
            raise ValueError(
                f"expected a model of images, got one with {networks['spatial_dims']} spatial axes"
            )
        levels = math.log2(downsample)
        if not levels.is_integer():
            raise ValueError(f"pipelines expect a power of two for downsample, got {downsample}")
        self.model, self.signed = model, signed
        self.quantize = _Quantize(model.quantizer)  # pyright: ignore[reportArgumentType]
        dim = model.quantizer.dim
        self.config = Config(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(dim,) * (int(levels) + 1),  # pipelines read the downsampling off its length
            latent_channels=dim,
            vq_embed_dim=dim,
            num_vq_embeddings=model.quantizer.codebook_size,
            scaling_factor=scaling_factor,
            sample_size=8 * downsample,
            force_upcast=False,
            lookup_from_codebook=lookup_from_codebook,
            norm_type="group",
        )
        self.eval()

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str, **options: Any) -> GMVQModel:
        """Wrap a saved tokenizer; ``options`` are this class's own, and ``torch_dtype``.

        Raises:
            FileNotFoundError, ValueError: as ``VQAutoencoder.from_pretrained``.
        """
        dtype = options.pop("torch_dtype", None)
        adapter = cls(VQAutoencoder.from_pretrained(path_or_hub_id), **options)
        return adapter if dtype is None else adapter.to(dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters of the encoder."""
        return next(self.model.encoder.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return device_of(self.model)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Images (B, C, H, W) in [-1, 1] to latents (B, D, h, w), before quantization.

        Returns:
            An object with ``latents``, or a tuple of them.
        """
        latents = self.model.encoder(x / 2 + 0.5 if self.signed else x)
        latents = latents.movedim(feature_axis(self.model), -1)
        read = getattr(self.model.quantizer, "decoder_units", None)
        latents = (latents if read is None else read(latents)).movedim(-1, 1)
        return Config(latents=latents) if return_dict else (latents,)

    def decode(
        self,
        h: Tensor,
        force_not_quantize: bool = False,
        return_dict: bool = True,
        shape: tuple[int, ...] | None = None,
    ) -> Any:
        """Latents (B, D, h, w) to images (B, C, H, W) in [-1, 1], which may lie a little outside.

        Args:
            h: latents; they are quantized first.
            force_not_quantize: decode them as they are; with ``lookup_from_codebook`` h holds indices.
            return_dict: return an object with ``sample`` and ``commit_loss`` in place of a tuple.
            shape: (B, h, w, D), of indices given flat.
        """
        loss = h.new_zeros((), dtype=torch.float32)
        if not force_not_quantize:
            h, loss, _ = self.quantize(h)
        elif self.config.lookup_from_codebook:
            h = self.quantize.get_codebook_entry(h, shape)
        sample = decode_latents(self.model, h.movedim(1, -1))
        sample = sample * 2 - 1 if self.signed else sample
        return Config(sample=sample, commit_loss=loss) if return_dict else (sample, loss)

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        """``decode(encode(sample).latents)``."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)

    @torch.no_grad()
    def latent_std(self, images: Tensor) -> float:
        """Standard deviation of the latents of images in [-1, 1]; see ``scaling_factor``."""
        return float(self.encode(images).latents.float().std())

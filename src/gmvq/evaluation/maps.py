"""A whole picture as a tokenizer sees it: reconstruction, error, tokens and uncertainty, each as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.interface import device_of, evaluating
from .codebook import codewords
from .metrics import per_image_mse, psnr
from .pictures import Picture, colour_map, enlarge, pad_to_multiple, to_picture

ERROR_MAP, UNCERTAINTY_MAP = "magma", "viridis"
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Seen:
    """A picture and what a tokenizer makes of it.

    Attributes:
        name: of the picture.
        image, reconstruction: (C, H, W) in [0, 1].
        indices: (h, w); of several codes per position the first.
        log_variance: how unsure each code is, (h, w); None where it does not vary.
    """

    name: str
    image: Tensor
    reconstruction: Tensor
    indices: Tensor
    log_variance: Tensor | None

    @property
    def decibels(self) -> float:
        """PSNR, dB."""
        return psnr(float(per_image_mse(self.reconstruction[None], self.image[None])))

    @property
    def error(self) -> Tensor:
        """Root of the mean squared error over channels, (H, W)."""
        return (self.reconstruction - self.image).square().mean(0).sqrt()


def look(model: nn.Module, name: str, image: Tensor, **spend: Any) -> Seen:
    """Encode and decode one picture (C, H, W) of any size, its last row and column repeated up to whole positions.

    ``spend`` is ``budget`` or ``distortion``, for a ``RaggedGMVQ``.
    """
    tokenizer: Any = model
    step = int(getattr(getattr(tokenizer, "encoder", None), "config", {}).get("downsample", 1))
    height, width = image.shape[1:]
    with evaluating(model):
        out = tokenizer(pad_to_multiple(image[None].float(), step).to(device_of(model)), **spend)
    if out.reconstruction.ndim != 4:
        raise ValueError(f"expected images (B, C, H, W) of the model, got {tuple(out.reconstruction.shape)}")
    reconstruction = out.reconstruction[0, :, :height, :width].detach().float().cpu().clamp(0.0, 1.0)
    indices = out.quantizer.indices[0].cpu()
    indices = indices.flatten(2)[..., 0] if indices.ndim > 2 else indices
    log_variance = out.quantizer.log_variance
    unsure = varying(log_variance[0]) if log_variance.ndim else None
    return Seen(name, image.float(), reconstruction, indices, unsure)


def varying(log_variance: Tensor) -> Tensor | None:
    """Log-variances (h, w) or, of several codes per position, their means; None where they do not vary."""
    values = log_variance.detach().float().cpu()
    values = values.flatten(2).mean(-1) if values.ndim > 2 else values
    known = values.ndim == 2 and bool(values.isfinite().all())
    return values if known and float(values.max() - values.min()) >= 1e-6 else None


def code_colours(model: nn.Module) -> Tensor:
    """A colour for every code, (K, 3) in [0, 1]: like codewords, like colours.

    Red, green and blue are the ranks along the first three principal components of the codebook. Where there is no
    single codebook, hues go round by the number of the code.
    """
    tokenizer: Any = model
    try:
        points = codewords(tokenizer.quantizer)
    except ValueError:
        hues = torch.arange(int(tokenizer.quantizer.codebook_size)) * _GOLDEN
        return 0.5 + 0.5 * torch.cos(2 * torch.pi * (hues[:, None] + torch.arange(3) / 3))
    centred = points - points.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:3]
    # The sign of a component is arbitrary; this one is the same on every machine.
    axes = axes * torch.where(axes.gather(1, axes.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
    # Ranks use the whole range whatever the distribution; a codebook of one code is grey.
    ranks = (centred @ axes.T).argsort(0).argsort(0).float() / max(1, len(points) - 1)
    ranks = ranks if len(points) > 1 else ranks + 0.5
    return nn.functional.pad(0.1 + 0.85 * ranks, (0, 3 - ranks.shape[1]), value=0.5)


def token_map(indices: Tensor, colours: Tensor, height: int, width: int) -> Picture:
    """Tokens (h, w) as a picture of (height, width), each in the colour of its code; masked ones are white."""
    planes = torch.where((indices < 0)[..., None], 1.0, colours[indices.clamp_min(0)])
    big = nn.functional.interpolate(planes.permute(2, 0, 1)[None], size=(height, width), mode="nearest")
    return to_picture(big[0])


def uncertainty_map(log_variance: Tensor, low: float, high: float, height: int, width: int) -> Picture:
    """Log-variances (h, w) as a picture of (height, width)."""
    return colour_map(enlarge(log_variance, height, width), low, high, name=UNCERTAINTY_MAP)


def limits(values: list[Tensor], high: float = 0.99) -> tuple[float, float]:
    """The quantile 0.01 of all values, and a high one."""
    flat = np.concatenate([value.numpy().ravel() for value in values])
    return float(np.quantile(flat, 0.01)), float(np.quantile(flat, high))


def strip(seen: Seen, colours: Tensor) -> Picture:
    """One row, with white lines between: original, reconstruction, tokens, and uncertainty where it varies."""
    height, width = seen.image.shape[1:]
    parts = [
        to_picture(seen.image),
        to_picture(seen.reconstruction),
        token_map(seen.indices, colours, height, width),
    ]
    if seen.log_variance is not None:
        parts.append(uncertainty_map(seen.log_variance, *limits([seen.log_variance]), height, width))
    gap = np.full((height, 8, 3), 255, dtype=np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)

"""What every quantizer shares: flattening, masks, dtype rules, look-up, config. Subclasses hold the mathematics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_finite, check_indices, check_latents, check_mask, check_size
from ..types import QuantizerOutput


class Quantizer(nn.Module):
    """Base of the quantizers: latents (..., D) in, ``QuantizerOutput`` out, whatever the leading shape.

    A subclass implements ``_quantize`` (training and eval), ``_search`` (nearest code) and ``_lookup``; latents
    come to them as (N, D), with a mask (N,).
    """

    def __init__(self, dim: int, codebook_size: int) -> None:
        super().__init__()
        check_size("dim", dim)
        check_size("codebook_size", codebook_size)
        self.dim, self.codebook_size = dim, codebook_size

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize latents.

        Args:
            latents: (..., D), floating point; computed in float32 (float64 stays), whatever autocast says.
            mask: (...), boolean, True where a position is valid. Masked positions change no statistic and get
                index -1 and zeros.

        Returns:
            QuantizerOutput: in training a sample with gradients; in eval the nearest code, deterministic.

        Raises:
            TypeError: latents are not floating point, or the mask is not boolean.
            ValueError: a wrong shape, an empty batch, NaN or infinite values.
        """
        flat, valid = self._flat(latents, mask)
        with torch.autocast(latents.device.type, enabled=False):
            out = self._quantize(flat, valid)
        lead, dtype = latents.shape[:-1], latents.dtype
        return replace(
            out,
            quantized=masked(out.quantized, valid, 0.0).to(dtype).reshape(latents.shape),
            indices=masked(out.indices, valid, -1).reshape(lead),
            log_variance=masked(out.log_variance, valid, 0.0).reshape(lead),
        )

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (...) of the most probable code for latents (..., D); int64, -1 where masked."""
        flat, valid = self._flat(latents, mask)
        with torch.autocast(latents.device.type, enabled=False):
            indices = self._search(flat)
        return masked(indices, valid, -1).reshape(latents.shape[:-1])

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codewords (..., D) of indices (...); equal to ``quantized`` of the eval forward, which is cast to the
        dtype of its latents; zero where -1.

        Raises:
            TypeError: indices are not integers.
            ValueError: an index outside [-1, K).
        """
        indices = check_indices(indices, self.codebook_size)
        return masked(self._lookup(indices.clamp_min(0)), indices >= 0, 0.0)

    def reset_parameters(self) -> None:
        """Make the layer new again, without a codebook; as torch's own layers, for weights that ``to_empty`` made."""
        own: Any = self
        self.load_state_dict(own.from_config(own.to_config()).state_dict())

    def _flat(self, latents: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Checked latents as (N, D) in the compute dtype, zero where masked, and the mask as (N,)."""
        check_latents(latents, self.dim)
        check_mask(mask, latents.shape[:-1])
        valid = None if mask is None else mask.reshape(-1)
        flat = masked(latents.reshape(-1, self.dim), valid, 0.0)
        check_finite("latents", flat)
        return (flat if flat.dtype == torch.float64 else flat.float()), valid

    def _quantize(self, latents: Tensor, mask: Tensor | None, /) -> QuantizerOutput:
        raise NotImplementedError

    def _search(self, latents: Tensor, /) -> Tensor:
        raise NotImplementedError

    def _lookup(self, indices: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={self.codebook_size}"


def masked(values: Tensor, valid: Tensor | None, otherwise: float) -> Tensor:
    """Values (...) or (..., D) where ``valid`` (...), something else where not; None: all are valid."""
    if valid is None:
        return values
    return torch.where(valid if values.ndim == valid.ndim else valid[..., None], values, otherwise)

"""What every quantizer shares: flattening, masks, dtype rules, look-up, config. Subclasses hold the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import check_finite, check_indices, check_latents, check_mask, check_size
from ..types import QuantizerOutput


class Quantizer(nn.Module):
    """Base of the quantizers: latents (..., D) in, ``QuantizerOutput`` out, whatever the leading shape.

    A subclass implements ``_quantize`` (training and eval on rows), ``_search`` (nearest code) and ``_lookup``.
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
        rows, valid = self._rows(latents, mask)
        lead = latents.shape[:-1]
        with torch.autocast(latents.device.type, enabled=False):
            out = self._quantize(rows, valid)
        quantized, indices, log_variance = out.quantized, out.indices, out.log_variance
        if valid is not None:
            quantized = torch.where(valid[:, None], quantized, 0.0)
            indices = torch.where(valid, indices, -1)
            log_variance = torch.where(valid, log_variance, 0.0)
        return QuantizerOutput(
            quantized=quantized.to(latents.dtype).reshape(latents.shape),
            indices=indices.reshape(lead),
            loss=out.loss,
            nats=out.nats,
            log_variance=log_variance.reshape(lead),
            terms=out.terms,
        )

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (...) of the most probable code for latents (..., D); int64, -1 where masked."""
        rows, valid = self._rows(latents, mask)
        with torch.autocast(latents.device.type, enabled=False):
            indices = self._search(rows)
        if valid is not None:
            indices = torch.where(valid, indices, -1)
        return indices.reshape(latents.shape[:-1])

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codewords (..., D) of indices (...); equal to ``quantized`` of the eval forward, which is cast to the
        dtype of its latents; zero where -1.

        Raises:
            TypeError: indices are not integers.
            ValueError: an index outside [-1, K).
        """
        check_indices(indices, self.codebook_size)
        indices = indices.long()
        codes = self._lookup(indices.clamp_min(0))
        return torch.where((indices >= 0)[..., None], codes, 0.0)

    def _rows(self, latents: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Checked rows (N, D) in the compute dtype, with masked rows zeroed, and the flat mask."""
        check_latents(latents, self.dim)
        check_mask(mask, latents.shape[:-1])
        rows = latents.reshape(-1, self.dim)
        valid = None if mask is None else mask.reshape(-1)
        if valid is not None:
            rows = torch.where(valid[:, None], rows, 0.0)
        check_finite("latents", rows)
        return (rows if rows.dtype == torch.float64 else rows.float()), valid

    def _quantize(self, rows: Tensor, valid: Tensor | None) -> QuantizerOutput:
        raise NotImplementedError

    def _search(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def _lookup(self, indices: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={self.codebook_size}"

"""``ChannelsFirst``: sequences, images and volumes with the features on axis 1, and lengths in place of masks."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_latents
from ..types import QuantizerOutput
from .base import Quantizer
from .composed_posterior import AnyPosterior


class ChannelsFirst(nn.Module):
    """A quantizer for latents (B, D, *spatial): (B, D, T), (B, D, H, W), (B, D, T, H, W), as convolutions emit them.

    Args:
        quantizer: any quantizer of this package; it stays ``adapter.quantizer``, with its ``set_progress`` and
            ``parameter_groups``.

    Example:
        >>> quantize = ChannelsFirst(GaussianMixtureVQ(dim=32, codebook_size=256))
        >>> out = quantize(torch.randn(4, 32, 100), lengths=torch.tensor([100, 80, 60, 7]))
        >>> out.quantized.shape, out.indices.shape
        (torch.Size([4, 32, 100]), torch.Size([4, 100]))
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> QuantizerOutput:
        """Quantize.

        Args:
            latents: (B, D, *spatial).
            mask: (B, *spatial), boolean, True where a position is valid.
            lengths: instead of a mask, see ``mask_from_lengths``.

        Returns:
            As the quantizer's, with ``quantized`` of shape (B, D, *spatial); ``indices`` (B, *spatial), with the levels
            or groups of a composition as last axis; ``log_variance`` alike.

        Raises:
            TypeError, ValueError: as the quantizer; or a mask and lengths at once.
        """
        out = self.quantizer(*self._positions(latents, mask, lengths))
        return replace(out, quantized=out.quantized.movedim(-1, 1))

    def encode(self, latents: Tensor, mask: Tensor | None = None, *, lengths: Tensor | None = None) -> Tensor:
        """Indices (B, *spatial) of the most probable codes; int64, -1 where masked. Arguments as ``forward``'s."""
        return self.quantizer.encode(*self._positions(latents, mask, lengths))

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codewords (B, D, *spatial) of indices (B, *spatial); zero where -1."""
        return self.quantizer.get_codes_from_indices(indices).movedim(-1, 1)

    def posterior(
        self, latents: Tensor, mask: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> AnyPosterior:
        """As the quantizer's, of positions (B, *spatial); ``expected`` is (B, D, *spatial)."""
        found = self.quantizer.posterior(*self._positions(latents, mask, lengths))  # pyright: ignore
        return replace(found, axis=1)

    def set_progress(self, progress: float) -> None:
        """As the quantizer's."""
        self.quantizer.set_progress(progress)  # pyright: ignore[reportCallIssue]

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """As the quantizer's."""
        return self.quantizer.parameter_groups(lr)  # pyright: ignore[reportCallIssue]

    def _positions(
        self, latents: Tensor, mask: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(latents, Tensor) and (latents.ndim < 3 or latents.shape[1] != self.quantizer.dim):
            raise ValueError(
                f"latents must have shape (B, {self.quantizer.dim}, *spatial): axis 1 is the feature axis; got "
                f"{tuple(latents.shape)}; for (..., {self.quantizer.dim}) call the quantizer itself"
            )
        check_latents(latents.movedim(1, -1), self.quantizer.dim)
        if lengths is not None:
            if mask is not None:
                raise ValueError("give a mask or lengths, not both")
            mask = mask_from_lengths(lengths, latents.shape[2:])
        return latents.movedim(1, -1), mask


def mask_from_lengths(lengths: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """Mask (B, *spatial), True before the end of each item.

    Args:
        lengths: (B,), number of valid positions along the first spatial axis (all of the others), or (B, n), along
            each of n = len(spatial) axes: images of several sizes padded to one.
        spatial: sizes of the spatial axes.

    Raises:
        TypeError: lengths are not integers.
        ValueError: of another shape, negative, or longer than the axis.

    Example:
        >>> mask_from_lengths(torch.tensor([2, 3]), (3,))
        tensor([[ True,  True, False],
                [ True,  True,  True]])
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        kind = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be an integer tensor, got {kind}")
    axes = 1 if lengths.ndim == 1 else len(spatial)
    if lengths.ndim not in (1, 2) or (lengths.ndim == 2 and lengths.shape[1] != axes):
        raise ValueError(f"lengths must have shape (B,) or (B, {len(spatial)}), got {tuple(lengths.shape)}")
    lengths = lengths.reshape(lengths.shape[0], axes)
    limits = torch.tensor(spatial[:axes], device=lengths.device)
    if bool((lengths < 0).any()) or bool((lengths > limits).any()):
        raise ValueError(
            f"lengths must lie between 0 and the sizes {tuple(spatial[:axes])}, got {lengths.tolist()}"
        )
    mask = torch.ones(lengths.shape[0], *spatial, dtype=torch.bool, device=lengths.device)
    for axis in range(axes):
        place = torch.arange(spatial[axis], device=lengths.device).view(-1, *[1] * (len(spatial) - axis - 1))
        mask &= place < lengths[:, axis].view(-1, *[1] * len(spatial))
    return mask

"""``GroupedGMVQ``: a product of codebooks, one for each group of features; with one codebook, several heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_size
from ..types import QuantizerOutput
from .composed import ComposedQuantizer, level_terms
from .gaussian_mixture import GaussianMixtureVQ


class GroupedGMVQ(ComposedQuantizer):
    r"""G mixtures side by side: the D features are cut into G groups of D / G, each with its own code.

    As one model: p(c_1, ..., c_G) = prod_g pi(c_g), and both the prior of z and its posterior are products over groups.
    The objective is the sum of the groups' objectives; ``out.nats`` is in nats per latent position. K^G combinations
    cost the search of G K codes.

    Args:
        dim: D, size of the last axis of the latents, a multiple of ``groups``.
        codebook_size: K of each group.
        groups: G.
        shared_codebook: one mixture for all groups (several *heads*): it sees G vectors per position, and its
            aggregated posterior is over all of them.
        options: of every ``GaussianMixtureVQ``.

    Indices and ``log_variance`` have shape (..., G).

    Source of the scheme: Jegou et al., "Product quantization for nearest neighbor search", 2011; as groups of a
    learned codebook: Baevski et al., "wav2vec 2.0", arXiv 2006.11477.

    Example:
        >>> quantizer = GroupedGMVQ(dim=64, codebook_size=256, groups=2)
        >>> quantizer(torch.randn(8, 16, 16, 64)).indices.shape
        torch.Size([8, 16, 16, 2])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        groups: int = 2,
        *,
        shared_codebook: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(dim, codebook_size)
        check_size("groups", groups)
        if dim % groups:
            raise ValueError(f"dim must be a multiple of groups, got dim={dim} and groups={groups}")
        self.groups, self.shared_codebook = groups, shared_codebook
        self.layers = nn.ModuleList(
            GaussianMixtureVQ(dim // groups, codebook_size, **options)
            for _ in range(1 if shared_codebook else groups)
        )

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape of the indices of one position: (G,)."""
        return (self.groups,)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize latents (..., D), mask (...), as ``Quantizer.forward``; indices and log_variance are (..., G)."""
        rows, valid = self._rows(latents, mask)
        outs = [
            part(vectors, _of_vectors(valid, vectors))
            for part, vectors in zip(self.mixtures, self._split(rows), strict=True)
        ]
        nats = sum((out.nats for out in outs), rows.new_zeros(())) * (self.groups / len(outs))
        copies = self.groups // len(outs)
        quantized, loss = self._couple(
            self._join([out.quantized for out in outs]), nats, self.decoder_units(rows).detach(), copies
        )
        shape = (*latents.shape[:-1], self.groups)
        terms = level_terms(outs)
        return QuantizerOutput(
            quantized=quantized.to(latents.dtype).reshape(latents.shape),
            indices=self._join([out.indices[..., None] for out in outs]).reshape(shape),
            loss=loss,
            nats=nats,
            log_variance=self._join([out.log_variance[..., None] for out in outs]).reshape(shape),
            terms=terms,
        )

    def decoder_units(self, latents: Tensor) -> Tensor:
        """What the decoder would read for latents (..., D) without codes."""
        vectors = zip(self.mixtures, self._split(latents), strict=True)
        return self._join([part.decoder_units(own) for part, own in vectors])

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """Latents (..., D) for which ``decoder_units`` gives ``read``, (..., D), if there are any."""
        vectors = zip(self.mixtures, self._split(read), strict=True)
        return self._join([part.from_decoder_units(own) for part, own in vectors])

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (..., G) of the most probable codes for latents (..., D); int64, -1 where masked."""
        rows, valid = self._rows(latents, mask)
        indices = [
            part.encode(vectors, _of_vectors(valid, vectors))[..., None]
            for part, vectors in zip(self.mixtures, self._split(rows), strict=True)
        ]
        return self._join(indices).reshape(*latents.shape[:-1], self.groups)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codewords (..., D) of indices (..., G), the groups' side by side; zero where -1.

        Raises:
            TypeError: indices are not integers.
            ValueError: not G indices on the last axis, or one outside [-1, K).
        """
        if indices.ndim < 1 or indices.shape[-1] != self.groups:
            raise ValueError(
                f"indices must have shape (..., {self.groups}), one for each group, got {tuple(indices.shape)}"
            )
        if self.shared_codebook:
            return self.mixtures[0].get_codes_from_indices(indices).flatten(-2)
        columns = zip(self.mixtures, indices.unbind(-1), strict=True)
        return torch.cat([part.get_codes_from_indices(column) for part, column in columns], -1)

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start every mixture by k-means on its features of latents (..., D)."""
        rows, _ = self._rows(latents, None)
        for part, vectors in zip(self.mixtures, self._split(rows), strict=True):
            part.init_codebook(vectors, seed=seed)

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        return {
            **self.mixtures[0].to_config(),
            "type": "GroupedGMVQ",
            "dim": self.dim,
            "groups": self.groups,
            "shared_codebook": self.shared_codebook,
        }

    def _split(self, rows: Tensor) -> list[Tensor]:
        """Rows (N, D) as the vectors of each mixture: (N, D / G), or one (N, G, D / G) where it is shared."""
        vectors = rows.unflatten(-1, (self.groups, -1))
        return [vectors] if self.shared_codebook else list(vectors.unbind(-2))

    def _join(self, values: list[Tensor]) -> Tensor:
        """The inverse of ``_split`` on what the mixtures made of their vectors."""
        return values[0].flatten(-2) if self.shared_codebook else torch.cat(values, -1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}, shared_codebook={self.shared_codebook}"


def _of_vectors(valid: Tensor | None, vectors: Tensor) -> Tensor | None:
    """The mask (N,) for vectors (N, D / G) or (N, G, D / G)."""
    return valid if valid is None or vectors.ndim == 2 else valid[:, None].expand(vectors.shape[:-1])

"""``GroupedGMVQ``: a product of codebooks, one for each group of features; with one codebook, several heads.

Groups of several levels each are a grouped residual quantizer.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_indices, check_size
from ..types import QuantizerOutput
from .composed import ComposedQuantizer, level_terms
from .composed_posterior import GroupPosterior
from .gaussian_mixture import GaussianMixtureVQ
from .parts import level_sizes
from .residual import ResidualGMVQ


class GroupedGMVQ(ComposedQuantizer):
    r"""G mixtures side by side: the D features are cut into G groups of D / G, each with its own code.

    As one model: p(c_1, ..., c_G) = prod_g pi(c_g), and both the prior of z and its posterior are products over groups.
    The objective is the sum of the groups' objectives; ``out.nats`` is in nats per latent position. K^G combinations
    cost the search of G K codes.

    Args:
        dim: D, size of the last axis of the latents, a multiple of ``groups``.
        codebook_size: K of each group, or with levels those of its levels.
        groups: G.
        shared_codebook: one mixture for all groups (several *heads*): it sees G vectors per position, and its
            aggregated posterior is over all of them.
        num_quantizers: n, levels of each group, which then is a ``ResidualGMVQ``; None: one code for each group.
        options: of every ``GaussianMixtureVQ``, or of every ``ResidualGMVQ`` where there are levels.

    Indices and ``log_variance`` have shape (..., G), or (..., n G) with levels: the first level of all groups, then
    the second, so that the first m G codes are the first m levels.

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
        codebook_size: int | Sequence[int],
        groups: int = 2,
        *,
        shared_codebook: bool = False,
        num_quantizers: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, max(level_sizes(codebook_size, num_quantizers)))
        check_size("groups", groups)
        if dim % groups:
            raise ValueError(f"dim must be a multiple of groups, got dim={dim} and groups={groups}")
        self.groups, self.shared_codebook = groups, shared_codebook
        leveled = num_quantizers is not None or isinstance(codebook_size, Sequence)
        if leveled:
            options["num_quantizers"] = num_quantizers
        kind: Any = ResidualGMVQ if leveled else GaussianMixtureVQ
        self.layers = nn.ModuleList(
            kind(dim // groups, codebook_size, **options) for _ in range(1 if shared_codebook else groups)
        )

    @property
    def parts(self) -> list[GaussianMixtureVQ | ResidualGMVQ]:
        """The quantizer of each group, or the one of all."""
        return list(self.layers)  # pyright: ignore[reportReturnType]

    @property
    def mixtures(self) -> list[GaussianMixtureVQ]:
        """The mixtures, in the order of their codes on the indices' last axis: levels, and groups within each."""
        columns = [part.mixtures if isinstance(part, ResidualGMVQ) else [part] for part in self.parts]
        return [mixture for level in zip(*columns, strict=True) for mixture in level]

    @property
    def levels(self) -> int:
        """n, number of codes of each group."""
        return len(self.mixtures) // len(self.layers)

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape of the indices of one position: (n G,)."""
        return (self.levels * self.groups,)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize latents (..., D), mask (...), as ``Quantizer.forward``; indices and log_variance are (..., n G)."""
        flat, pieces = self._pieces(latents, mask)
        first = self.parts[0]
        drawn: dict[str, Any] = {}
        if isinstance(first, ResidualGMVQ) and first.level_dropout:
            # One number of levels for all groups of an item.
            items = latents.shape[0] if latents.ndim > 1 else 1
            drawn["levels"] = first.draw_levels(items, flat.device)
        outs: list[QuantizerOutput] = [
            part(own, valid, **drawn) for part, (own, valid) in zip(self.parts, pieces, strict=True)
        ]
        copies = self.groups // len(outs)
        nats = sum((out.nats for out in outs), flat.new_zeros(())) * copies
        read = self.decoder_units(flat).detach()
        quantized = self._join([out.quantized for out in outs]).reshape(flat.shape)
        quantized, loss = self._couple(quantized, nats, read, copies)
        return QuantizerOutput(
            quantized=quantized.to(latents.dtype).reshape(latents.shape),
            indices=self._join_codes([out.indices for out in outs]),
            loss=loss,
            nats=nats,
            log_variance=self._join_codes([out.log_variance for out in outs]),
            terms=level_terms(outs),
        )

    def decoder_units(self, latents: Tensor) -> Tensor:
        """What the decoder would read for latents (..., D) without codes."""
        vectors = zip(self.parts, self._split(latents), strict=True)
        return self._join([part.decoder_units(own) for part, own in vectors])

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """Latents (..., D) for which ``decoder_units`` gives ``read``, (..., D), if there are any."""
        vectors = zip(self.parts, self._split(read), strict=True)
        return self._join([part.from_decoder_units(own) for part, own in vectors])

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (..., n G) of the most probable codes for latents (..., D); int64, -1 where masked."""
        pairs = zip(self.parts, self._pieces(latents, mask)[1], strict=True)
        return self._join_codes([part.encode(own, valid) for part, (own, valid) in pairs])

    def posterior(self, latents: Tensor, mask: Tensor | None = None) -> GroupPosterior:
        """q(c_g|x) of each group, or of each of its levels, for latents (..., D) with a mask (...)."""
        pairs = zip(self.parts, self._pieces(latents, mask)[1], strict=True)
        return GroupPosterior(self, [part.posterior(own, valid) for part, (own, valid) in pairs])

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start every mixture by k-means on its features of latents (..., D)."""
        for part, own in zip(self.parts, self._split(self._flat(latents, None)[0]), strict=True):
            part.init_codebook(own, seed=seed)

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        return {
            **self.parts[0].to_config(),
            "type": "GroupedGMVQ",
            "dim": self.dim,
            "groups": self.groups,
            "shared_codebook": self.shared_codebook,
        }

    def _pieces(
        self, latents: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """Checked latents (N, D), and the vectors of each part with their mask."""
        flat, _ = self._flat(latents, mask)
        vectors = self._split(flat.reshape(latents.shape))
        if mask is not None and self.shared_codebook:
            mask = mask[..., None].expand(vectors[0].shape[:-1])
        return flat, [(own, mask) for own in vectors]

    def _split(self, values: Tensor) -> list[Tensor]:
        """Values (..., D) as the vectors of each part: (..., D / G), or one (..., G, D / G) where it is shared."""
        vectors = values.unflatten(-1, (self.groups, -1))
        return [vectors] if self.shared_codebook else list(vectors.unbind(-2))

    def _join(self, values: list[Tensor]) -> Tensor:
        """The inverse of ``_split`` on what the parts made of their vectors."""
        return values[0].flatten(-2) if self.shared_codebook else torch.cat(values, -1)

    def _join_levels(self, values: list[Tensor]) -> Tensor:
        """Vectors (..., m, D / G) of each part, or the one's (..., G, m, D / G), as (..., m, D)."""
        return self._join([value.transpose(-2, -3) for value in values] if self.shared_codebook else values)

    def _columns(self, indices: Tensor) -> tuple[Tensor, ...]:
        indices = check_indices(indices, self.codebook_size)
        levels, rest = divmod(indices.shape[-1] if indices.ndim else 0, self.groups)
        if rest or not 1 <= levels <= self.levels:
            raise ValueError(
                f"indices must have shape (..., {self.groups}), one for each group"
                + (f" and level, with 1 to {self.levels} levels" if self.levels > 1 else "")
                + f"; got {tuple(indices.shape)}"
            )
        return indices.unflatten(-1, (levels, self.groups)).unbind(-2)

    def _codewords(self, columns: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.parts)
        for number, column in zip(range(0, len(self.mixtures), count), columns, strict=False):
            pairs = zip(self.mixtures[number : number + count], self._of_parts(column), strict=True)
            codewords = self._join([mixture.get_codes_from_indices(codes) for mixture, codes in pairs])
            yield codewords, (column >= 0).repeat_interleave(self.dim // self.groups, -1)

    def _read(self, total: Tensor) -> Tensor:
        # Without levels a mixture's codewords are in the decoder's units.
        return self.decoder_units(total) if isinstance(self.parts[0], ResidualGMVQ) else total

    def _of_parts(self, column: Tensor) -> list[Tensor]:
        """What there is of each group, (..., G), for each part."""
        return [column] if self.shared_codebook else list(column.unbind(-1))

    def _split_codes(self, indices: Tensor) -> list[Tensor]:
        """Indices (..., m G) as those of each part, (...) or (..., m): the inverse of ``_join_codes``."""
        columns = [self._of_parts(column) for column in self._columns(indices)]
        if isinstance(self.parts[0], GaussianMixtureVQ):
            return columns[0]
        return [torch.stack(levels, -1) for levels in zip(*columns, strict=True)]

    def _join_codes(self, values: list[Tensor]) -> Tensor:
        """What each part has for every code, (...) or (..., n), as (..., n G)."""
        if not isinstance(self.parts[0], ResidualGMVQ):
            values = [value[..., None] for value in values]
        codes = values[0] if self.shared_codebook else torch.stack(values, -2)
        return codes.transpose(-1, -2).flatten(-2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}, shared_codebook={self.shared_codebook}"

"""``ComposedQuantizer``: what quantizers made of several mixtures share."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import check_indices
from ..functional.balance import balance_gradients
from ..types import QuantizerOutput
from .base import Quantizer, masked
from .config import from_arguments
from .gaussian_mixture import GaussianMixtureVQ

#: Terms that add up over parts; of all others the mean is meant.
_ADDITIVE = ("kl_aggregate", "kl_conditional", "latent", "conditional_entropy", "aggregate_entropy")

#: Terms that are kept of each part.
_OF_PARTS = ("perplexity", "error")


def level_terms(outs: Sequence[QuantizerOutput]) -> dict[str, Tensor]:
    """Terms of the whole, nats per latent position where they are nats, and some of each part by its number.

    Perplexity and nats of every part; the error of a level is its own alone. Parts that are made of levels themselves
    have their numbers already: of these the mean over parts is meant.
    """
    terms: dict[str, Tensor] = {}
    for name in (name for name in outs[0].terms if name != "error"):
        values = torch.stack([out.terms[name] for out in outs])
        terms[name] = values.sum() if name in _ADDITIVE or name.startswith("nats/") else values.mean()
    if "perplexity/1" in terms:
        return terms
    for number, out in enumerate(outs, start=1):
        own = {"nats": out.nats.detach(), **{key: out.terms[key] for key in _OF_PARTS if key in out.terms}}
        terms.update({f"{name}/{number}": value for name, value in own.items()})
    return terms


def per_position(out: QuantizerOutput, share: Tensor) -> QuantizerOutput:
    """A part's output with its nats per latent position, of which it has ``share``, 0-d, vectors each."""
    terms = {name: value * share if name in _ADDITIVE else value for name, value in out.terms.items()}
    return replace(out, nats=out.nats * share, terms=terms)


class ComposedQuantizer(Quantizer):
    """Several mixtures as one quantizer: their schedules, their parameters, their loss in the units of another."""

    layers: nn.ModuleList
    #: What the parts in a row are called, the shape of their indices, and how many axes these have at least.
    _levels, _shape, _axes = "levels", "(..., m)", 1

    @property
    def mixtures(self) -> list[GaussianMixtureVQ]:
        """The mixtures, in the order of their codes on the indices' last axis."""
        return list(self.layers)  # pyright: ignore[reportReturnType]

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape of the indices of one position: one number, that of the mixtures."""
        return (len(self.mixtures),)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each mixture."""
        return tuple(mixture.codebook_size for mixture in self.mixtures)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Sum of the codewords (..., D) of indices (..., m) of the first m <= n levels; -1 adds nothing.

        Raises:
            TypeError: indices are not integers.
            ValueError: more levels than there are, or an index outside [-1, K); of a pyramid, a block with two codes.
        """
        *_, last = self.progressive(self._columns(indices))
        return last

    def progressive(self, columns: Iterable[Tensor]) -> Iterator[Tensor]:
        """What the decoder reads after each level, (..., D), as the levels' indices (...) come in, first to last.

        The l-th result is ``get_codes_from_indices`` of the first l levels. Of groups, a level's indices are (..., G).
        """
        total, seen = None, None
        for part, here in self._codewords(columns):
            total = part if total is None else total + part
            seen = here if seen is None else self._seen(seen, here)
            yield masked(self._read(total), seen, 0.0)

    def get_codes_of_levels(self, indices: Tensor) -> Tensor:
        """The codewords of each level, (..., m, D), of indices as ``get_codes_from_indices`` takes them; zero where -1.

        They are in the latents' units, and ``decoder_units`` of their sum is ``get_codes_from_indices``, up to rounding
        (and where nothing is masked). Of a pyramid, each position has the codewords of its blocks; of groups without
        levels, m is 1 and the codewords are as the decoder reads them.
        """
        return torch.stack([part for part, _ in self._codewords(self._columns(indices))], -2)

    def decoder_units(self, latents: Tensor) -> Tensor:
        """Latents, or a sum of codewords, (..., D), as the decoder reads them: here as they are."""
        return latents

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """Latents (..., D) for which ``decoder_units`` gives ``read``, if there are any."""
        return read

    def _read(self, total: Tensor) -> Tensor:
        """What the decoder reads for a sum of codewords (..., D)."""
        return self.decoder_units(total)

    def set_progress(self, progress: float) -> None:
        """Advance every schedule of every mixture, as ``GaussianMixtureVQ.set_progress``."""
        for mixture in self.mixtures:
            mixture.set_progress(progress)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups at the network's rate ``lr``, without decay."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": 0.0}]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build an untrained quantizer from ``to_config``'s dictionary."""
        return cls(**from_arguments(config))

    def _share_codebook(self) -> None:
        """One codebook for all mixtures; again after loading, as ``to_empty`` and ``assign=True`` give each its own."""
        _tie(self)
        self.register_load_state_dict_post_hook(_tie)

    def _columns(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The columns (...) of indices with the first m of n levels on the last axis."""
        indices = check_indices(indices, self.codebook_size)
        if indices.ndim < self._axes or not 1 <= indices.shape[-1] <= len(self.layers):
            raise ValueError(
                f"indices must have shape {self._shape} with the first m of {len(self.layers)} {self._levels} on the "
                f"last axis, got {tuple(indices.shape)}"
            )
        return indices.unbind(-1)

    def _codewords(self, columns: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each level the codewords (..., D) of its indices (...), and which there are."""
        for number, (level, column) in enumerate(zip(self.mixtures, columns, strict=False)):
            codes = self._everywhere(number, check_indices(column, level.codebook_size))
            yield level.get_codes_from_indices(codes), codes >= 0

    def _everywhere(self, number: int, column: Tensor) -> Tensor:
        """The code of each position in the indices of level ``number``, from 0."""
        return column

    def _seen(self, before: Tensor, here: Tensor) -> Tensor:
        """Which positions are not masked, after a level that has codes ``here``."""
        return before | here

    def _couple(
        self, quantized: Tensor, nats: Tensor, latents: Tensor, copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """In training the loss in the units of the reconstruction loss, see ``functional.balance``; else as they are.

        The error of quantization is spread over those of the D features that the codebooks span, at most D.
        """
        if not self.training:
            return quantized, nats
        features = min(copies * sum(mixture.codebook_dim for mixture in self.mixtures), self.dim)
        return balance_gradients(quantized, nats, latents, features=features)


def _tie(module: Any, *_: Any) -> None:
    for mixture in module.mixtures[1:]:
        mixture.codebook = module.mixtures[0].codebook

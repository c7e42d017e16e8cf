"""``ComposedQuantizer``: what quantizers made of several mixtures share."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import check_indices
from ..functional.balance import balance_gradients
from ..types import QuantizerOutput
from .base import Quantizer
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

    def _columns(self, indices: Tensor, parts: str, shape: str, axes: int = 1) -> tuple[Tensor, ...]:
        """The columns of indices with the first m of n parts on the last axis, of so many axes at least."""
        indices = check_indices(indices, self.codebook_size)
        if indices.ndim < axes or not 1 <= indices.shape[-1] <= len(self.layers):
            raise ValueError(
                f"indices must have shape {shape} with the first m of {len(self.layers)} {parts} on the last axis, "
                f"got {tuple(indices.shape)}"
            )
        return indices.unbind(-1)

    def _couple(
        self, quantized: Tensor, nats: Tensor, rows: Tensor, copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """In training the loss in the units of the reconstruction loss, see ``functional.balance``; else as they are.

        The error of quantization is spread over those of the D features that the codebooks span, at most D.
        """
        if not self.training:
            return quantized, nats
        features = min(copies * sum(mixture.codebook_dim for mixture in self.mixtures), self.dim)
        return balance_gradients(quantized, nats, rows, pooled=True, features=features)


def _tie(module: Any, *_: Any) -> None:
    for mixture in module.mixtures[1:]:
        mixture.codebook = module.mixtures[0].codebook

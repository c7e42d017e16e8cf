"""``TokenSpec``: what a sequence of tokens is: its order, its codebooks, its labels, and the ids of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import check_indices, check_size
from ..quantizers.blocks import scale_places


@dataclass(frozen=True)
class TokenSpec:
    """Tokens of one image as a sequence x_0 ... x_{L-1}.

    They come in raster order, the levels of a position one after another; of a pyramid all codes of the coarsest scale,
    then those of the next, each scale in raster order.

    The ids that a network embeds, V in all:

    ================================ =======================================================
    level * K + index                a code; every level has embeddings of its own
    levels * K + label               the label that a sequence begins with
    levels * K + labels              no label
    levels * K + labels + 1          a masked position
    ================================ =======================================================

    Of ragged codes a causal prior reads a token for each leaf (``gmvq.prior.ragged``): the scales of leaves then stand
    in the place of levels, and ``length`` is the most that there can be.

    Args:
        shape: of one image's indices, (*spatial) or (*spatial, levels).
        codebook_size: K, of every level; the largest where they differ.
        levels: codes per latent position.
        labels: number of labels, 0 without.
        pyramid: whether the levels are the scales of a ``PyramidGMVQ``, whose blocks have one code each.
        scales: sizes of blocks that may share a code, of a ``RaggedGMVQ``; 1: a code for each position.
        codebook_sizes: K of each level, where they differ.

    Raises:
        ValueError: a size below 1, or levels that are not the last axis of ``shape``.

    Example:
        >>> from gmvq.prior import TokenSpec
        >>> spec = TokenSpec((4, 4, 3), codebook_size=256, levels=3, pyramid=True)
        >>> spec.length, spec.levels_of.tolist()[:6]
        (21, [0, 1, 1, 1, 1, 2])
    """

    shape: tuple[int, ...]
    codebook_size: int
    levels: int = 1
    labels: int = 0
    pyramid: bool = False
    scales: int = 1
    codebook_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        for size in self.shape:
            check_size("every size of shape", size)
        check_size("codebook_size", self.codebook_size)
        check_size("levels", self.levels)
        sizes = tuple(self.codebook_sizes)
        for size in sizes:
            check_size("every one of codebook_sizes", size)
        if sizes and (len(sizes) != self.levels or max(sizes) != self.codebook_size):
            raise ValueError(
                f"codebook_sizes must be those of {self.levels} levels, the largest {self.codebook_size}, got {sizes}"
            )
        object.__setattr__(self, "codebook_sizes", sizes if len(set(sizes)) > 1 else ())
        if not self.shape:
            raise ValueError("shape is empty: an image has at least one token")
        if (self.levels > 1 or self.pyramid) and self.shape[-1] != self.levels:
            raise ValueError(f"the last axis of shape {self.shape} must be that of the {self.levels} levels")
        check_size("scales", self.scales)
        if self.scales > 1 and (self.levels > 1 or self.pyramid):
            raise ValueError(f"blocks of {self.scales} sizes have one level, got {self.levels}")
        if self.labels < 0:
            raise ValueError(f"labels must not be negative, got {self.labels}")

    @cached_property
    def places(self) -> Tensor:
        """Where the tokens of the sequence stand in an image's flattened indices, (L,)."""
        if self.pyramid:
            return torch.cat(scale_places(self.shape[:-1], self.levels))
        return torch.arange(math.prod(self.shape))

    @cached_property
    def levels_of(self) -> Tensor:
        """The level of every token of the sequence, from 0, (L,)."""
        return self.places % self.levels

    @property
    def sizes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.codebook_sizes or (self.codebook_size,) * self.levels

    @property
    def length(self) -> int:
        """L: tokens per image."""
        return len(self.places)

    @property
    def parts(self) -> int:
        """Sets of K codes with embeddings of their own: levels, or scales of leaves."""
        return self.levels * self.scales

    @property
    def vocabulary(self) -> int:
        """V: ids in all."""
        return self.parts * self.codebook_size + self.labels + 2

    @property
    def mask_id(self) -> int:
        """The id of a masked position."""
        return self.vocabulary - 1

    def codes(self, indices: Tensor) -> Tensor:
        """Indices (B, *shape) in [0, K) -> the codes of the sequence, (B, L).

        Raises:
            ValueError: another shape, or an index out of range (masked positions are none of a sequence).
            TypeError: no integers.
        """
        if isinstance(indices, Tensor) and indices.shape[1:] != self.shape:
            raise ValueError(
                f"indices must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(indices.shape)}"
            )
        check_indices(indices, self.sizes)
        codes = indices.long().flatten(1)
        codes = codes[:, self.places.to(codes.device)] if self.pyramid else codes
        if codes.numel() and int(codes.min()) < 0:
            raise ValueError("indices hold masked positions (-1); a prior needs whole images")
        return codes

    def sequence(self, indices: Tensor) -> Tensor:
        """Indices (B, *shape) in [0, K) -> ids (B, L); errors as those of ``codes``."""
        return self.codes(indices) + self.offsets(indices.device)

    def indices(self, ids: Tensor) -> Tensor:
        """Ids (B, L) of codes -> indices (B, *shape), -1 where a pyramid has no code."""
        codes = ids - self.offsets(ids.device)
        if self.pyramid:
            places = self.places.to(ids.device).expand_as(codes)
            codes = codes.new_full((len(codes), math.prod(self.shape)), -1).scatter(1, places, codes)
        return codes.view(-1, *self.shape)

    def label_ids(self, labels: Tensor | None, count: int, device: torch.device) -> Tensor:
        """Labels (B,), negative for none, or None for none at all -> the ids (B,) that sequences begin with.

        Raises:
            ValueError: not one label for each image, or one that the prior was not trained with.
        """
        none = self.parts * self.codebook_size + self.labels
        if labels is None:
            return torch.full((count,), none, device=device)
        if labels.shape != (count,):
            raise ValueError(
                f"labels must have shape ({count},), one for each image, got {tuple(labels.shape)}"
            )
        labels = labels.to(device).long()
        if labels.numel() and int(labels.max()) >= self.labels:
            known = f"0 to {self.labels - 1}" if self.labels else "none: it was trained without"
            raise ValueError(f"the prior has no label {int(labels.max())}; its labels are {known}")
        return torch.where(labels < 0, none, self.parts * self.codebook_size + labels)

    def to_config(self) -> dict[str, Any]:
        """The arguments, fit for JSON."""
        return {
            "shape": list(self.shape),
            "codebook_size": self.codebook_size,
            "levels": self.levels,
            "labels": self.labels,
            **({"pyramid": True} if self.pyramid else {}),
            **({"scales": self.scales} if self.scales > 1 else {}),
            **({"codebook_sizes": list(self.codebook_sizes)} if self.codebook_sizes else {}),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TokenSpec:
        """Rebuild from ``to_config``."""
        sizes = tuple(config.get("codebook_sizes", ()))
        return cls(**{**config, "shape": tuple(config["shape"]), "codebook_sizes": sizes})

    def offsets(self, device: torch.device) -> Tensor:
        """level * K of every token of the sequence, (L,)."""
        return self.levels_of.to(device) * self.codebook_size

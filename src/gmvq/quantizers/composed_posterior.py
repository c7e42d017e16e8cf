r"""Posteriors of several mixtures: of levels or scales, each given the codes before it, and of groups.

.. math:: q(c_1, \dots, c_n | x) = q(c_1 | x) \, q(c_2 | x, c_1) \cdots q(c_n | x, c_1, \dots, c_{n-1})

Each factor is a ``CodePosterior``, on a path of codes that is given or drawn. Sums over all paths (the marginal of a
later level, the mean of all paths) have prod_l K_l terms and are not here, nor are the k likeliest paths.
"""

# pyright: reportPrivateUsage=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import check_indices
from .base import masked
from .blocks import Blocks, block_codes, grown, placed
from .posterior import CodePosterior, mean_nats

if TYPE_CHECKING:
    from .gaussian_mixture import GaussianMixtureVQ
    from .grouped import GroupedGMVQ


@dataclass(frozen=True)
class LevelPosterior:
    r"""q(c_l|x, c_1 ... c_{l-1}) of each level of a residual quantizer, or each scale of a pyramid.

    ``topk``, ``entropy`` and ``expected`` are of each level given the codes before it: ``indices``, (..., m), of the
    first m <= n levels, and the most probable code of every later one. -1 adds nothing.

    The code of a scale is that of a block, whose values stand at its first valid position, as its code does; everywhere
    else log-probabilities and entropies are 0 and codes -1.

    Attributes:
        levels: the n mixtures, first to last.
        grids: what each of them quantizes, if nothing comes before: blocks of positions, coarse to fine; of a residual
            quantizer the same single positions, n times.
        shape: of the positions.
        read: from a sum of codewords, (..., D), to what the decoder reads.
        axis: where ``expected`` has its features.

    Example:
        >>> quantizer = ResidualGMVQ(dim=8, codebook_size=64, num_quantizers=3)
        >>> quantizer.init_codebook(torch.randn(512, 8))
        >>> posterior = quantizer.posterior(torch.randn(2, 5, 8))
        >>> log_probs, codes = posterior.topk(4)
        >>> log_probs.shape, posterior.entropy(codes[..., 0]).shape, posterior.expected().shape
        (torch.Size([2, 5, 3, 4]), torch.Size([2, 5, 3]), torch.Size([2, 5, 3, 8]))
    """

    levels: list[GaussianMixtureVQ]
    grids: list[Blocks]
    shape: torch.Size
    read: Callable[[Tensor], Tensor]
    axis: int = -1

    def topk(self, k: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(log_probs, codes)``, (..., n, k) each: the k likeliest codes of each level, see ``CodePosterior.topk``."""
        found = [posterior.topk(k) for posterior, _, _ in self._chain(self._given(indices))]
        log_probs, codes = zip(*found, strict=True)
        return self._placed(log_probs, 0), self._placed(codes, -1)

    def entropy(self, indices: Tensor | None = None) -> Tensor:
        r"""H(q(c_l|x, c_1 ... c_{l-1})), (..., n).

        Over paths that are drawn, the mean of its sum over levels (and blocks) is the entropy of the whole path:
        H(q(c_1 ... c_n|x)) = E_q sum_l H(q(c_l|x, c_1 ... c_{l-1})).
        """
        return self._placed([own.entropy() for own, _, _ in self._chain(self._given(indices))], 0)

    def expected(self, indices: Tensor | None = None) -> Tensor:
        """What the decoder reads in the mean after each level, (..., n, D): the codewords before it and E_q of its own.

        The l-th is the mean of ``get_codes_from_indices`` of the first l levels under q(c_l|x, c_1 ... c_{l-1}).
        """
        counts, values = self.grids[-1].counts, []
        for grid, (own, _, above) in zip(self.grids, self._chain(self._given(indices)), strict=True):
            mean = self.read(grown(above + own.expected(), counts.shape, grid.side))
            values.append(masked(mean, counts > 0, 0.0))
        values = torch.stack(values, -2)
        return values.reshape(*self.shape, *values.shape[-2:]).movedim(-1, self.axis)

    def log_prob(self, indices: Tensor) -> Tensor:
        """log q(c_l|x, c_1 ... c_{l-1}) of given codes of the first m levels, (..., m) -> (..., m); 0 where -1."""
        columns = self._columns(indices)
        steps = zip(columns, self._chain(self._given(indices)), strict=False)
        return self._placed([own.log_prob(codes) for _, (own, codes, _) in steps], 0)

    def cross_entropy(self, indices: Tensor) -> Tensor:
        """Mean of -log q over the codes (..., m) that are not -1; scalar, nats."""
        return mean_nats(self.log_prob(indices), indices)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Codes drawn level after level, (..., n)."""
        drawn = self._chain(lambda _, own: own.sample(generator))
        return self._placed([codes for _, codes, _ in drawn], -1)

    def _chain(
        self, choose: Callable[[int, CodePosterior], Tensor]
    ) -> Iterator[tuple[CodePosterior, Tensor, Tensor]]:
        """Of each level its posterior, the codes (B, *grid) that ``choose`` gives it, and the sum of those before."""
        left, side = self.grids[0].means, self.grids[0].side
        above = torch.zeros_like(left)
        for number, (level, grid) in enumerate(zip(self.levels, self.grids, strict=True)):
            if grid.side != side:
                above = grown(above, grid.counts.shape, side // grid.side)
                left, side = grid.means - above, grid.side
            posterior = level.posterior(left, grid.counts > 0)
            codes = choose(number, posterior)
            yield posterior, codes, above
            part = level.get_codes_from_indices(codes).detach().to(left.dtype)
            left, above = left - part, above + part

    def _given(self, indices: Tensor | None) -> Callable[[int, CodePosterior], Tensor]:
        columns = () if indices is None else self._columns(indices)

        def choose(number: int, posterior: CodePosterior) -> Tensor:
            if number >= len(columns):
                return posterior.most_probable(1)[..., 0]
            return block_codes(columns[number], self.grids[number].side.bit_length() - 1)

        return choose

    def _columns(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The indices (B, *spatial) of each of the first m levels."""
        indices = check_indices(indices, max(level.codebook_size for level in self.levels))
        if indices.shape[:-1] != self.shape or not 1 <= indices.shape[-1] <= len(self.levels):
            raise ValueError(
                f"indices must have shape ({', '.join(map(str, [*self.shape, 'm']))}) with the first m of "
                f"{len(self.levels)} levels on the last axis, got {tuple(indices.shape)}"
            )
        return tuple(column.reshape(self.grids[-1].first.shape) for column in indices.unbind(-1))

    def _placed(self, values: Sequence[Tensor], empty: int) -> Tensor:
        """Values (B, *grid, ...) of the first m levels as (..., m, ...)."""
        found = placed(self.grids, values, empty)
        return found.reshape(*self.shape, *found.shape[self.grids[-1].first.ndim :])


@dataclass(frozen=True)
class GroupPosterior:
    """The product of the groups' posteriors: after the axes of the positions, the codes are in the order of ``encode``.

    n = 1 unless the groups have levels. ``topk``, ``entropy`` and ``expected`` then take ``indices``, (..., m G), of
    the first m levels, as ``LevelPosterior``; each group is given those of its own levels.

    Attributes:
        layer: whose groups these are.
        parts: the posterior of each group; or one of positions (..., G), where they share a codebook.
        axis: where ``expected`` has its features.
    """

    layer: GroupedGMVQ
    parts: Sequence[CodePosterior | LevelPosterior]
    axis: int = -1

    def topk(self, k: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(log_probs, codes)``, (..., n G, k) each, group by group, see ``CodePosterior.topk``."""
        found = [part.topk(k, *own) for part, own in self._given(indices)]
        log_probs, codes = ([value.movedim(-1, 0) for value in values] for values in zip(*found, strict=True))
        return self.layer._join_codes(log_probs).movedim(0, -1), self.layer._join_codes(codes).movedim(0, -1)

    def log_prob(self, indices: Tensor) -> Tensor:
        """log q of given codes, (..., m G) -> (..., m G); their sum over groups is that of the position."""
        pairs = zip(self.parts, self.layer._split_codes(indices), strict=True)
        return self.layer._join_codes([part.log_prob(own) for part, own in pairs])

    def cross_entropy(self, indices: Tensor) -> Tensor:
        """Mean of -log q over the codes (..., m G) that are not -1; scalar, nats."""
        return mean_nats(self.log_prob(indices), indices)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Codes drawn from each group's posterior, (..., n G)."""
        return self.layer._join_codes([part.sample(generator) for part in self.parts])

    def entropy(self, indices: Tensor | None = None) -> Tensor:
        """H(q(c_g|x)), (..., n G)."""
        return self.layer._join_codes([part.entropy(*own) for part, own in self._given(indices)])

    def expected(self, indices: Tensor | None = None) -> Tensor:
        """The groups' means side by side, (..., D), or (..., n, D) with levels."""
        values = [part.expected(*own) for part, own in self._given(indices)]
        leveled = isinstance(self.parts[0], LevelPosterior)
        joined = self.layer._join_levels(values) if leveled else self.layer._join(values)
        return joined.movedim(-1, self.axis)

    def _given(
        self, indices: Tensor | None
    ) -> Iterator[tuple[CodePosterior | LevelPosterior, tuple[Tensor, ...]]]:
        """Each part, and its own of the indices, if there are any."""
        if indices is None:
            return ((part, ()) for part in self.parts)
        if isinstance(self.parts[0], CodePosterior):
            raise ValueError("nothing comes before a code of groups without levels: leave indices out")
        return (
            (part, (own,)) for part, own in zip(self.parts, self.layer._split_codes(indices), strict=True)
        )


#: Whatever ``quantizer.posterior`` may give.
AnyPosterior = CodePosterior | GroupPosterior | LevelPosterior

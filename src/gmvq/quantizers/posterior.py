r"""q(c|x) of given latents, to look into: the likeliest codes, their probabilities, draws, means over codes, entropy.

``quantizer.posterior(latents)`` gives the class below, or one of ``composed_posterior``, made of several. It speaks of
all K codes, whatever the layer's ``support``, at its current sharpening. Gradients reach the latents and the mixture;
nothing of size N x K is kept, as backward computes blocks of rows again. Log-probabilities and entropies are in nats.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import check_indices
from ..functional.mixture import draw_codes, mixture_query
from ..functional.row_blocks import in_row_blocks
from ..functional.sampling import find_support
from ..functional.search import rows_per_tile

if TYPE_CHECKING:
    from .gaussian_mixture import GaussianMixtureVQ


@dataclass(frozen=True)
class CodePosterior:
    r"""q(c|x) = softmax_c(v.mu_c + b_c) of N positions with one code each.

    Attributes:
        query: v = w z, (N, d).
        codebook, bias: mu, (K, d), and b, (K,).
        shape: of the positions; N is their number.
        valid: which positions count, (N,), or None for all. Others have code -1 and zeros.
        read: from a mean of codewords, (N, d), to what the decoder reads, (N, D).
        axis: where ``expected`` has its features.

    Example:
        >>> quantizer = GaussianMixtureVQ(dim=8, codebook_size=64)
        >>> quantizer.init_codebook(torch.randn(512, 8))
        >>> posterior = quantizer.posterior(torch.randn(2, 5, 8))
        >>> log_probs, codes = posterior.topk(3)
        >>> log_probs.shape, posterior.entropy().shape, posterior.expected().shape
        (torch.Size([2, 5, 3]), torch.Size([2, 5]), torch.Size([2, 5, 8]))
    """

    query: Tensor
    codebook: Tensor
    bias: Tensor
    shape: torch.Size
    valid: Tensor | None
    read: Callable[[Tensor], Tensor]
    axis: int = -1

    @classmethod
    def of(cls, layer: GaussianMixtureVQ, latents: Tensor, mask: Tensor | None) -> CodePosterior:
        """The posterior of a layer for latents (..., D) with a mask (...), see ``GaussianMixtureVQ.posterior``."""
        flat, valid = layer._flat(latents, mask)
        if not layer._has_codebook():
            raise ValueError(
                "there is no codebook yet: train, or call quantizer.init_codebook(latents) first"
            )
        with torch.autocast(latents.device.type, enabled=False):
            # A copy, as the next training step changes the codebook in place.
            codebook = layer.codebook.to(flat.dtype).clone()
            mixture = layer._mixture(codebook)
            query = mixture_query(layer.standardized(flat), mixture.log_precision)
        return cls(query, codebook, mixture.bias, latents.shape[:-1], valid, layer.unstandardized)

    def log_probs(self) -> Tensor:
        """log q(c|x) of every code, (..., K)."""
        values = self._by_rows(_log_probs)
        return values.reshape(*self.shape, values.shape[-1])

    def most_probable(self, k: int) -> Tensor:
        """The k likeliest codes, (..., k), from the likeliest down; the first is ``encode``'s; -1 where masked.

        No tensor of size N x K is made. Codes of equal probability come in any order.
        """
        size = self.codebook.shape[0]
        if not 1 <= k <= size:
            raise ValueError(f"k must be between 1 and the number of codes, {size}; got {k}")
        # Not a decorator: the compiler cannot follow one on an object that it has made itself.
        with torch.no_grad():
            return self._most_probable(k)

    def _most_probable(self, k: int) -> Tensor:
        support = find_support(self.query, self.codebook, self.bias, k)
        first = support.indices[:, None]
        doubled = support.codes == first
        # Where the first is not among the others, the last of them gives way.
        doubled[:, -1:] |= ~doubled.any(-1, keepdim=True)
        others = support.codes.gather(-1, doubled.int().argsort(dim=-1, stable=True)[:, :-1])
        return self._positions(torch.cat([first, others], -1), -1)

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """``(log_probs, codes)``, (..., k) each: the k likeliest codes and log q(c|x) of each."""
        codes = self.most_probable(k)
        return self._score(codes.reshape(-1, k)).reshape(codes.shape), codes

    def log_prob(self, indices: Tensor) -> Tensor:
        """log q(c|x) of given codes, (...) -> (...); 0 where the index is -1.

        Raises:
            TypeError: indices are not integers.
            ValueError: indices of another shape than the positions', or outside [-1, K).
        """
        indices = check_indices(indices, self.codebook.shape[0])
        if indices.shape != self.shape:
            raise ValueError(
                f"indices must have the shape of the positions, {tuple(self.shape)}, got {tuple(indices.shape)}"
            )
        return self._score(indices.reshape(-1, 1)).reshape(self.shape)

    def cross_entropy(self, indices: Tensor) -> Tensor:
        """Mean of -log q(c|x) over the positions (...) whose index is not -1; scalar, nats."""
        return mean_nats(self.log_prob(indices), indices)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A code of each position drawn from q(c|x), (...), int64; -1 where masked."""
        count, device = self.query.shape[0], self.query.device
        where = device if generator is None else generator.device
        chances = torch.rand(count, 1, generator=generator, device=where).to(device)

        def draw(query: Tensor, own: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
            return draw_codes(_log_probs(query, codebook, bias).exp(), own)

        with torch.no_grad():
            return self._positions(self._by_rows(draw, chances)[:, 0], -1)

    def entropy(self) -> Tensor:
        """H(q(c|x)) of each position, (...), from 0 to log K: how unsure the code is."""
        return self._positions(self._by_rows(_entropy), 0.0)

    def expected(self) -> Tensor:
        r"""E_q[mu_c] as the decoder reads it, (..., D): the mean of ``get_codes_from_indices`` under q(c|x)."""
        values = self.read(self._by_rows(_mean_codeword))
        return self._positions(values, 0.0).movedim(-1, self.axis)

    def _score(self, codes: Tensor) -> Tensor:
        """log q of codes (N, k), 0 where -1."""
        return torch.where(codes >= 0, self._by_rows(_log_prob_of, codes.clamp_min(0)), 0.0)

    def _by_rows(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """A function of query, rows, codebook and bias, in blocks of positions; compiled code is not cut."""
        shared, device = (self.codebook, self.bias), self.query.device.type

        def block(*tensors: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            with torch.autocast(device, enabled=False):
                return (function(*tensors),), ()

        if torch.compiler.is_compiling():
            return block(self.query, *rows, *shared)[0][0]
        step = rows_per_tile(self.codebook.shape[0], self.query.device)
        return in_row_blocks(block, (self.query, *rows), shared, step)[0][0]

    def _positions(self, values: Tensor, masked: float) -> Tensor:
        """Values (N, ...) in the shape of the positions, with ``masked`` where these do not count."""
        if self.valid is not None:
            values = torch.where(self.valid.view(-1, *(1,) * (values.ndim - 1)), values, masked)
        return values.reshape(*self.shape, *values.shape[1:])


def _log_probs(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, query, codebook.T).log_softmax(-1)


def _log_prob_of(query: Tensor, codes: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    return _log_probs(query, codebook, bias).gather(-1, codes)


def _entropy(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    log_q = _log_probs(query, codebook, bias)
    # A code of weight 0 has log q = -inf, and 0 * -inf is no number.
    return -(log_q.exp() * log_q.clamp_min(torch.finfo(log_q.dtype).min)).sum(-1)


def _mean_codeword(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    return _log_probs(query, codebook, bias).exp() @ codebook


def mean_nats(log_prob: Tensor, indices: Tensor) -> Tensor:
    """Mean of -log q over the codes that are not -1, scalar."""
    return -log_prob.sum() / (indices.long() >= 0).sum().clamp_min(1)

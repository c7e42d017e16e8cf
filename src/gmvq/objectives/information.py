"""How much a code says about its image: entropies and mutual information of q(c|x), batch or whole set; its units."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import check_mask, check_positive, check_size
from ..functional.distributed import all_reduce_sum

Number = TypeVar("Number", float, Tensor)


def _wide(tensor: Tensor) -> Tensor:
    """float64, or float32 where the device has no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def conditional_entropy(log_q: Tensor) -> Tensor:
    """H(c|x) = mean over x of H(q(c|x)); log_q (..., K) -> scalar, nats per position; 0 to log K."""
    q = log_q.exp()
    return -torch.where(q > 0, q * log_q, 0.0).sum(-1).mean()


def aggregate_entropy(log_q: Tensor) -> Tensor:
    """H(qbar), qbar(c) = mean over x of q(c|x); log_q (..., K) -> scalar, nats; exp of it is a perplexity."""
    mean = log_q.exp().flatten(0, -2).mean(0)
    return -torch.xlogy(mean, mean).sum()


def information(log_q: Tensor) -> Tensor:
    r"""Mutual information of image and code, I_q(x; c) = H(qbar) - mean H(q(c|x)).

    Its place in the bounds: mean KL(q(c|x) || pi) = I_q + KL(qbar || pi) for every pi. Between 0 and
    min(log K, log N): over few rows it is underestimated, and KL(qbar || pi) overestimated by as much.

    Args:
        log_q: normalised log-responsibilities, (..., K); every leading element is one x.

    Returns:
        Scalar, nats per position.
    """
    return aggregate_entropy(log_q) - conditional_entropy(log_q)


class AggregatePosterior:
    """Running sums of q(c|x) over an evaluation set, in float64: the same figures as on one large batch.

    Example:
        >>> aggregate = AggregatePosterior(codebook_size=4)
        >>> aggregate.update(torch.zeros(10, 4).log_softmax(-1))
        >>> round(float(aggregate.conditional_entropy), 4)
        1.3863

    Args:
        codebook_size: K.
        device: where the sums live; ``update`` moves what it adds there.
    """

    def __init__(self, codebook_size: int, device: torch.device | str | None = None) -> None:
        check_size("codebook_size", codebook_size)
        self.codebook_size = codebook_size
        #: Sum of q(c|x) per code (K), sum of H(q(c|x)) and number of rows, one after the other: (K + 2,).
        self.sums = _wide(torch.zeros(codebook_size + 2, device=device))

    @torch.no_grad()
    def update(self, log_q: Tensor, mask: Tensor | None = None) -> None:
        """Add rows. log_q (..., K), normalised; mask (...), boolean, True = valid."""
        if log_q.shape[-1] != self.codebook_size:
            raise ValueError(
                f"log_q must have shape (..., {self.codebook_size}), got {tuple(log_q.shape)}: last, the codes"
            )
        check_mask(mask, log_q.shape[:-1])
        log_q = (log_q if mask is None else log_q[mask]).reshape(-1, self.codebook_size)
        if log_q.dtype in (torch.float16, torch.bfloat16):
            log_q = log_q.float()  # their exponential has two digits
        q = log_q.exp()
        self.add(q, -torch.where(q > 0, q * log_q, 0.0).sum(-1))

    @torch.no_grad()
    def add(self, q: Tensor, entropies: Tensor) -> None:
        """Add rows whose q(c|x), (N, K), and H(q(c|x)), (N,), are known."""
        dtype, device = self.sums.dtype, self.sums.device
        self.sums[:-2] += q.sum(0, dtype=dtype).to(device)
        self.sums[-2] += entropies.sum(dtype=dtype).to(device)
        self.sums[-1] += q.shape[0]

    def merge(self, *others: AggregatePosterior) -> AggregatePosterior:
        """Add the sums of others, of other processes or other shards, and return self."""
        for other in others:
            if other.codebook_size != self.codebook_size:
                raise ValueError(f"cannot merge K = {other.codebook_size} into K = {self.codebook_size}")
            self.sums += other.sums.to(self.sums)
        return self

    def all_reduce(self) -> AggregatePosterior:
        """Sum over the ranks of the process group, and return self; a collective. No-op on one process.

        Call it once, after the last update: a second call would count every rank again.
        """
        self.sums = all_reduce_sum(self.sums)
        return self

    @property
    def count(self) -> int:
        """Number of rows seen."""
        return int(self.sums[-1])

    @property
    def probabilities(self) -> Tensor:
        """qbar(c), (K,), float64.

        Raises:
            ValueError: nothing was added yet.
        """
        self._check_count()
        return self.sums[:-2] / self.sums[-1]

    @property
    def aggregate_entropy(self) -> Tensor:
        """H(qbar), nats per position."""
        mean = self.probabilities
        return -torch.xlogy(mean, mean).sum()

    @property
    def conditional_entropy(self) -> Tensor:
        """Mean of H(q(c|x)), nats per position."""
        self._check_count()
        return self.sums[-2] / self.sums[-1]

    @property
    def information(self) -> Tensor:
        """I_q(x; c) = H(qbar) - mean H(q(c|x)), nats per position."""
        return self.aggregate_entropy - self.conditional_entropy

    def kl(self, log_weights: Tensor | None = None) -> Tensor:
        """KL(qbar || pi), nats per position; log_weights = log pi (K,), uniform when absent."""
        if log_weights is None:
            log_weights = torch.full_like(self.sums[:-2], 1.0 / self.codebook_size).log()
        mean = self.probabilities
        cross = torch.where(mean > 0, mean * log_weights.to(mean), 0.0).sum()
        return -self.aggregate_entropy - cross

    def _check_count(self) -> None:
        if self.count == 0:
            raise ValueError("no rows were added: call update(log_q) first")

    def __repr__(self) -> str:
        return f"AggregatePosterior(codebook_size={self.codebook_size}, count={self.count})"


def bits_per_dimension(nats_per_image: Number, n: int, levels: int = 256) -> Number:
    r"""Convert -log p(x) of a density on data k / (levels - 1) to bits per value at the data's resolution.

    .. math:: \frac{\text{nats}}{n \ln 2} + \log_2(\text{levels} - 1)

    The values k / (levels - 1) are a lattice, and the probability of a point is the density there times the spacing; so
    the constant is log2 255 for 8-bit data, not log2 256. *No dequantisation* is done: no noise is added to the data.
    For a Gaussian of standard deviation s_x >= 1 / (levels - 1), an MSE of 1.5e-5 or more, the probabilities sum to 1
    within 1e-8, and the result is a code length. Below, it falls without limit and means nothing (docs/mathematics.md,
    section 8). For a Laplace density of scale b the sum exceeds 1 by about 1 / (12 b^2 (levels - 1)^2) at most.

    Args:
        nats_per_image: -log p(x) or an upper bound on it, nats, all n values summed; a float or a tensor.
        n: number of values of one image (height x width x channels).
        levels: number of levels of one value.

    Returns:
        Bits per value, of the type and shape of ``nats_per_image``.

    Raises:
        ValueError: n < 1 or levels < 2.
    """
    check_positive("n", n)
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    return nats_per_image / (n * math.log(2.0)) + math.log2(levels - 1)

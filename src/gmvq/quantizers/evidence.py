"""The objective of a batch, gamma * latent + beta * KL, from the statistics of its posterior; and its terms by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional.divergences import (
    categorical_kl,
    entropy,
    gaussian_cross_entropy,
    gaussian_kl,
    perplexity,
)
from .parts import Objective
from .statistics import BatchStatistics

#: Names of all terms, those that the layer adds included.
TERMS = (
    "kl_aggregate",
    "kl_conditional",
    "latent",
    "conditional_entropy",
    "aggregate_entropy",
    "perplexity",
    "usage",
    "precision",
    "scale",
    "variance",
    "temperature",
)


@dataclass(frozen=True)
class Evidence:
    """Terms of the objective in nats per valid position, over all ranks once averaged over them.

    Attributes:
        latent: Gaussian term of q(z|x, c) against p(z|c), see ``Objective``.
        kl_aggregate: KL(qbar || pi).
        kl_conditional: mean KL(q(c|x) || pi).
        conditional_entropy: mean H(q(c|x)).
    """

    latent: Tensor
    kl_aggregate: Tensor
    kl_conditional: Tensor
    conditional_entropy: Tensor

    @staticmethod
    def of(
        kind: str,
        batch: BatchStatistics,
        conditional_entropy: Tensor,
        variance: Tensor | None,
        log_precision: Tensor,
        log_weights: Tensor,
        dim: int,
    ) -> Evidence:
        r"""Put the terms together.

        .. math:: \text{mean KL}(q \| \pi) = -\text{mean} \, H(q) - \sum_c \bar q_c \log \pi_c

        Args:
            kind: of the objective; ``"literal"`` takes the Gaussian cross-entropy for the KL.
            batch: statistics of the batch.
            conditional_entropy: H(q(c|x)), (N,).
            variance: of the sample of z, (N,); None where z = mu_c, which has no latent term.
            log_precision: log w, (1,) or (D,).
            log_weights: log pi, (K,).
            dim: D.
        """
        mean_entropy = (conditional_entropy * batch.share).sum()
        latent = torch.zeros_like(mean_entropy)
        if variance is not None:
            gaussian = gaussian_cross_entropy if kind == "literal" else gaussian_kl
            latent = (gaussian(variance, log_precision, dim) * batch.share).sum()
        return Evidence(
            latent=latent,
            kl_aggregate=categorical_kl(batch.aggregate, log_weights),
            kl_conditional=-mean_entropy - (batch.own_aggregate * log_weights).sum(),
            conditional_entropy=mean_entropy,
        )

    def nats(self, objective: Objective, gamma: Tensor, beta: Tensor) -> Tensor:
        """gamma * latent + beta * KL, with the KL that the objective's kind names."""
        kl = {
            "albo": self.kl_aggregate,
            "literal": self.kl_aggregate,
            "elbo": self.kl_conditional,
            "none": 0.0 * self.kl_aggregate,
        }
        return gamma * self.latent + beta * kl[objective.kind]

    def terms(self, batch: BatchStatistics) -> dict[str, Tensor]:
        """Every term and the use of the codebook, for ``QuantizerOutput.terms``."""
        return {
            "kl_aggregate": self.kl_aggregate,
            "kl_conditional": self.kl_conditional,
            "latent": self.latent,
            "conditional_entropy": self.conditional_entropy,
            "aggregate_entropy": entropy(batch.aggregate),
            "perplexity": perplexity(batch.counts),
            "usage": (batch.counts > 0).to(batch.counts.dtype).mean(),
        }

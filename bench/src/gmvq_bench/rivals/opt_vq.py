r"""OptVQ: codes are assigned by optimal transport, so that a batch uses all of them about equally.

With distances d_{nc} = |z_n - e_c|, standardised over the batch, and the entropic plan Q of uniform marginals

.. math:: Q = \arg\min_Q \sum_{nc} Q_{nc} \frac{d_{nc} - \bar d}{s_d} - \frac1\epsilon H(Q), \qquad
          \sum_c Q_{nc} = \frac1n, \quad \sum_n Q_{nc} = \frac1K, \qquad c_n = \arg\max_c Q_{nc}

found by a few rounds of Sinkhorn, and the VQ loss |z - sg[e]|^2 + beta |sg[z] - e|^2, straight-through.

Source: Zhang et al., "Preventing local pitfalls in vector quantization via optimal transport", 2024,
arXiv 2412.15195. Epsilon = 10, five rounds, beta = 0.25 and the start by k-means are its public settings for CIFAR-10.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import check_positive

from .base import BaselineQuantizer, Step, start_by_kmeans

_SMALL = 1e-30


def sinkhorn(cost: Tensor, epsilon: float, rounds: int) -> Tensor:
    """The plan of uniform marginals, times n: rows of ``cost`` (n, K) to rows that sum to 1, columns nearly to n/K."""
    # A factor of a row or a column does not change the plan: with a 1 in each of them none underflows as a whole.
    cost = cost - cost.amin(1, keepdim=True)
    kernel = (-epsilon * (cost - cost.amin(0))).exp()
    columns = cost.new_ones(cost.shape[1])
    rows = cost.new_ones(cost.shape[0])
    for _ in range(rounds):
        columns = len(cost) / len(columns) / (rows @ kernel).clamp_min(_SMALL)
        rows = 1.0 / (kernel @ columns).clamp_min(_SMALL)
    return rows[:, None] * kernel * columns


class OptimalTransportVQ(BaselineQuantizer):
    """A learnable codebook, assigned by transport while training.

    In eval a position has the nearest codeword, as its code must not depend on what else is in the batch. The linear
    map of the codebook that the public code may add, and several heads, are left out.

    Args:
        codebook_size: K; codewords start by k-means of the first training batch, until then standard normal.
        commitment_weight: beta; as published it weighs the codebook's term, and the encoder's has weight 1.
        epsilon: inverse temperature of the plan, for distances of standard deviation 1.
        rounds: of Sinkhorn.
    """

    started: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        commitment_weight: float = 0.25,
        epsilon: float = 10.0,
        rounds: int = 5,
    ) -> None:
        check_positive("epsilon", epsilon)
        check_positive("rounds", rounds)
        super().__init__(dim, codebook_size)
        self.commitment_weight, self.epsilon, self.rounds = commitment_weight, epsilon, rounds
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def assign(self, latents: Tensor) -> Tensor:
        """The code (n,) of each latent (n, D) of a batch."""
        distance = torch.cdist(latents, self.codebook)
        spread = distance.std(correction=0).clamp_min(1e-6)
        return sinkhorn((distance - distance.mean()) / spread, self.epsilon, self.rounds).argmax(-1)

    def _step(self, rows: Tensor) -> Step:
        start_by_kmeans(self.codebook, rows, self.started)
        z = rows.to(self.codebook.dtype)
        indices = self.assign(z)
        codes = F.embedding(indices, self.codebook)
        loss = F.mse_loss(z, codes.detach()) + self.commitment_weight * F.mse_loss(codes, z.detach())
        return Step(z + (codes - z).detach(), indices, loss)

r"""CVQ-VAE: an online clustered codebook, whose little-used codes are moved to features of the batch.

With the running average usage N_k of code k (a share of the positions, decay gamma), and an anchor a_k from the batch:

.. math:: N_k \leftarrow \gamma N_k + (1 - \gamma) \frac{n_k}{n}, \qquad
          \alpha_k = \exp\left(-N_k K \frac{10}{1 - \gamma} - \epsilon\right), \qquad
          e_k \leftarrow (1 - \alpha_k) e_k + \alpha_k a_k

and the VQ loss |sg[z] - e|^2 + beta |z - sg[e]|^2, straight-through. Anchors: ``"probabilistic"`` draws one with
probability softmax_n(-|z_n - e_k|^2), ``"closest"`` takes the nearest z_n.

Source: Zheng and Vedaldi, "Online Clustered Codebook", 2023, arXiv 2307.15139, equations 3 to 5.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import check_choice
from gmvq.functional.divergences import code_counts
from gmvq.functional.kmeans import nearest_code

from .base import BaselineQuantizer, Step, start_by_kmeans

_EPSILON = 1e-3


def reanchoring_rate(usage: Tensor, decay: float) -> Tensor:
    """alpha_k, (K,), of the running average usage (K,): near 1 for codes that are not used."""
    return torch.exp(-usage * usage.shape[0] * 10.0 / (1.0 - decay) - _EPSILON)


class ClusteredVQ(BaselineQuantizer):
    """A learnable codebook with re-anchoring.

    Training ``forward`` rewrites codewords and usage: that is the method. It leaves a frozen codebook alone. The
    contrastive loss of the paper's appendix is left out, and distances are Euclidean (its repository offers both).

    Args:
        codebook_size: K; codewords start uniform in +-1/K, as published.
        commitment_weight: beta.
        decay: gamma.
        anchor: how a code finds its feature.
        kmeans_init: start by k-means on the first training batch instead; not in the paper.
    """

    usage: Tensor
    started: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        commitment_weight: float = 0.25,
        decay: float = 0.99,
        anchor: Literal["probabilistic", "closest"] = "probabilistic",
        kmeans_init: bool = False,
    ) -> None:
        check_choice("anchor", anchor, ("probabilistic", "closest"))
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        super().__init__(dim, codebook_size)
        self.commitment_weight, self.decay, self.anchor = commitment_weight, decay, anchor
        self.kmeans_init = kmeans_init
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1, 1) / codebook_size)
        self.register_buffer("usage", torch.zeros(codebook_size))
        self.register_buffer("started", torch.tensor(False))

    def _step(self, rows: Tensor) -> Step:
        if self.kmeans_init:
            start_by_kmeans(self.codebook, rows, self.started)
        z = rows.to(self.codebook.dtype)
        indices = nearest_code(z.detach(), self.codebook.detach())[0]
        codes = F.embedding(indices, self.codebook)
        loss = F.mse_loss(codes, z.detach()) + self.commitment_weight * F.mse_loss(z, codes.detach())
        quantized = z + (codes - z).detach()
        if self.codebook.requires_grad:
            self._reanchor(z.detach(), indices)
        return Step(
            quantized, indices, loss, {"running_usage": (self.usage > 0.1 / len(self.usage)).float().mean()}
        )

    @torch.no_grad()
    def _reanchor(self, z: Tensor, indices: Tensor) -> None:
        share = code_counts(indices, self.codebook_size).to(self.usage) / indices.shape[0]
        self.usage.lerp_(share, 1.0 - self.decay)
        negative = 2.0 * self.codebook @ z.T - z.square().sum(-1)  # -|z_n - e_k|^2 up to a constant of k
        closest = self.anchor == "closest"
        chosen = negative.argmax(-1) if closest else torch.multinomial(negative.softmax(-1), 1)[:, 0]
        rate = reanchoring_rate(self.usage, self.decay)[:, None].to(z.dtype)
        self.codebook.copy_(torch.lerp(self.codebook, z[chosen], rate))

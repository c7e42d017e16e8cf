r"""IBQ: index backpropagation, straight-through on the one-hot of all K logits, so that every code gets a gradient.

.. math:: l_c = z \cdot e_c, \quad p = \mathrm{softmax}(l), \quad r = \mathrm{onehot}(\arg\max l) + p - sg[p],
          \quad \hat z = \sum_c r_c e_c

.. math:: \text{loss} = |\hat z - z|^2 + |sg[e] - z|^2 + \beta |e - sg[z]|^2
          + \lambda \left( H(\text{softmax}(l / t)) - H(\overline{\text{softmax}(l / t)}) \right)

with e the chosen codeword, squared errors averaged over values, the first entropy over positions and the second of
the mean over positions; t = 0.01. The first three terms are the paper's double quantization loss.

Source: Shi et al., "Scalable Image Tokenization with Index Backpropagation Quantization", 2024, arXiv 2412.02692;
beta = 0.25 and t are the defaults of its public code; lambda = 0.05 is a choice made here, so tune it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import check_positive
from gmvq.functional.divergences import entropy, entropy_from_logits
from gmvq.functional.search import best_code

from .base import BaselineQuantizer, Step, start_by_kmeans


class IndexBackpropagationVQ(BaselineQuantizer):
    """The code of the largest dot product, with gradients of the full softmax; several N x K tensors.

    Args:
        codebook_size: K; codewords start uniform in +-1/K, as published.
        commitment_weight: beta; in the authors' code it weighs the codebook's term, and the encoder's has weight 1.
        entropy_weight: lambda, in units of a mean squared error per nat.
        entropy_temperature: t.
        kmeans_init: start by k-means on the first training batch; not in the paper.
    """

    started: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.05,
        entropy_temperature: float = 0.01,
        kmeans_init: bool = False,
    ) -> None:
        check_positive("entropy_temperature", entropy_temperature)
        super().__init__(dim, codebook_size)
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.entropy_temperature, self.kmeans_init = entropy_temperature, kmeans_init
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1, 1) / codebook_size)
        self.register_buffer("started", torch.tensor(False))

    def _search(self, latents: Tensor) -> Tensor:
        codebook = self.codebook.detach()
        return best_code(
            latents.detach().to(codebook.dtype), codebook, codebook.new_zeros(self.codebook_size)
        )[1]

    def _step(self, rows: Tensor) -> Step:
        if self.kmeans_init:
            start_by_kmeans(self.codebook, rows, self.started)
        z = rows.to(self.codebook.dtype)
        logits = z @ self.codebook.T
        indices, soft = logits.argmax(-1), logits.softmax(-1)
        one_hot = F.one_hot(indices, self.codebook_size).to(soft.dtype)
        quantized = (one_hot + (soft - soft.detach())) @ self.codebook
        codes = F.embedding(indices, self.codebook)
        double = F.mse_loss(quantized, z) + F.mse_loss(codes.detach(), z)
        double = double + self.commitment_weight * F.mse_loss(codes, z.detach())
        sharp = logits / self.entropy_temperature
        penalty = entropy_from_logits(sharp).mean() - entropy(sharp.softmax(-1).mean(0))
        terms = {"conditional_entropy": entropy_from_logits(logits).mean(), "entropy_penalty": penalty}
        return Step(quantized, indices, double + self.entropy_weight * penalty, terms)

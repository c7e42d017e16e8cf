r"""LGQ: soft responsibilities of an isotropic mixture, with two penalties: on unsure positions, on uneven usage.

.. math:: p_c = \mathrm{softmax}_c(-|z - e_c|^2 / \tau), \quad m = \sum_c p_c e_c, \quad
          \hat z = m + sg[e_{c^*} - m], \quad u = \overline{p}

.. math:: \text{loss} = |\hat z - z|^2 + \lambda_{peak} \, \overline{1 - \sum_c p_c^2}
          + \lambda_{usage} \, K \sum_c u_c^2

with c* the nearest code, squared errors averaged over values, bars over positions; tau falls in a straight line. Both
penalties are least where a position has one code and all codes are used alike: 0 and 1.

Source: Altun et al., "LGQ: Learning discretization geometry for scalable and stable image tokenization", 2026,
arXiv 2602.16086. The form of the penalties, the weights of 0.005 and tau from 1 to 0.1 are those of its public code;
of the starts that it offers this one has k-means.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.functional.divergences import entropy
from gmvq.functional.schedules import Linear

from .base import AnnealedQuantizer, Step, start_by_kmeans


class LearnableGeometricVQ(AnnealedQuantizer):
    """The nearest codeword forward, the gradient of the soft mean; several N x K tensors.

    Args:
        codebook_size: K; codewords start by k-means of the first training batch, until then standard normal.
        peak_weight, usage_weight: lambda, in units of a mean squared error.
        temperature: tau while ``set_progress`` was never called, in squared units of the latents.
        final_temperature: tau at the end of training, from 1.
    """

    started: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        peak_weight: float = 0.005,
        usage_weight: float = 0.005,
        temperature: float = 0.5,
        final_temperature: float = 0.1,
    ) -> None:
        super().__init__(dim, codebook_size, Linear, temperature, final_temperature)
        self.peak_weight, self.usage_weight = peak_weight, usage_weight
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.register_buffer("started", torch.tensor(False))

    def _step(self, rows: Tensor) -> Step:
        start_by_kmeans(self.codebook, rows, self.started)
        z = rows.to(self.codebook.dtype)
        square = z.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
        weights = ((2.0 * z @ self.codebook.T - square) / self.temperature.to(z.dtype)).softmax(-1)
        indices = weights.argmax(-1)
        mean = weights @ self.codebook
        quantized = mean + (F.embedding(indices, self.codebook) - mean).detach()
        usage = weights.mean(0)
        peak = 1.0 - weights.square().sum(-1).mean()
        uneven = self.codebook_size * usage.square().sum()
        loss = F.mse_loss(quantized, z) + self.peak_weight * peak + self.usage_weight * uneven
        terms = {"conditional_entropy": entropy(weights).mean(), "peak": peak, "uneven": uneven}
        terms["temperature"] = self.temperature
        return Step(quantized, indices, loss, terms)

"""ReinMax, an estimator of second order that gmvq does not have: it costs error, and is unbiased for quadratics."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gmvq.functional.schedules import Constant, Schedule


@dataclass(frozen=True)
class ReinMax:
    r"""Hard sample D ~ softmax(logits) with a second-order (Heun) gradient.

    With p = softmax(logits) and h = (D + softmax(logits / tau)) / 2, the gradient is that of 2 h' - p / 2, where
    h' is h written as a softmax of the logits. Source: arXiv 2304.08612, algorithm 2.
    """

    temperature: Schedule = Constant(1.0)
    noise: Schedule = Constant(1.0)

    def sample(self, logits: Tensor, temperature: Tensor, gumbel: Tensor) -> Tensor:
        p = logits.softmax(-1)
        hard = F.one_hot((logits + gumbel).argmax(-1), p.shape[-1]).to(p.dtype)
        half = 0.5 * (hard + (logits / temperature).softmax(-1))
        shift = (half.clamp_min(1e-20).log() - logits).detach()
        surrogate = 2.0 * (logits + shift).softmax(-1) - 0.5 * p
        return hard + (surrogate - surrogate.detach())

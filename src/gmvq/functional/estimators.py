"""Gradient estimators: how a categorical sample, weights r over K codes, carries a gradient to its logits.

Each is a small frozen object holding its schedules; ``sample`` maps logits (N, K) and Gumbel noise (N, K), already
multiplied by the schedule ``noise``, to weights (N, K) whose rows sum to one. The temperature arrives as a 0-d tensor,
so that compiled code is not rebuilt as it changes. K is the number of codes, or of those in a support.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from .schedules import Constant, Schedule


class Estimator(Protocol):
    """What the quantizer needs of a gradient estimator."""

    @property
    def temperature(self) -> Schedule: ...
    @property
    def noise(self) -> Schedule: ...
    def sample(self, logits: Tensor, temperature: Tensor, gumbel: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class GumbelSoftmax:
    r"""Soft sample r = softmax((logits + g) / tau), g Gumbel noise. Biased, low variance.

    tau -> 0 with standard noise gives exact categorical samples; no noise gives the posterior's mean.
    Source: arXiv 1611.01144.
    """

    temperature: Schedule = Constant(1.0)
    noise: Schedule = Constant(0.0)

    def sample(self, logits: Tensor, temperature: Tensor, gumbel: Tensor) -> Tensor:
        return ((logits + gumbel) / temperature).softmax(-1)


@dataclass(frozen=True)
class StraightThroughGumbel:
    """Hard one-hot sample forward, the gradient of the Gumbel-softmax backward. Source: arXiv 1611.01144.

    Without noise, as is the default: the most probable code, with the gradient of the posterior's mean.
    """

    temperature: Schedule = Constant(1.0)
    noise: Schedule = Constant(0.0)

    def sample(self, logits: Tensor, temperature: Tensor, gumbel: Tensor) -> Tensor:
        soft = ((logits + gumbel) / temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())

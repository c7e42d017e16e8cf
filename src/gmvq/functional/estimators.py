"""Gradient estimators: how a categorical sample, weights r over K codes, carries a gradient to its logits.

Each is a small frozen object holding its schedules; ``sample`` maps logits (N, K) and Gumbel noise (N, K), already
multiplied by the schedule ``noise``, to weights (N, K) whose rows sum to one. The temperature arrives as a 0-d tensor,
so that compiled code is not rebuilt as it changes. K is the number of codes, or of those in a support.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .schedules import Constant, Schedule

#: Columns of which a softmax along rows is slow.
_FEW = 32


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
        return _softmax((logits + gumbel) / temperature)


@dataclass(frozen=True)
class StraightThroughGumbel:
    """Hard one-hot sample forward, the gradient of the Gumbel-softmax backward. Source: arXiv 1611.01144.

    Without noise, as is the default: the most probable code, with the gradient of the posterior's mean.
    """

    temperature: Schedule = Constant(1.0)
    noise: Schedule = Constant(0.0)

    def sample(self, logits: Tensor, temperature: Tensor, gumbel: Tensor) -> Tensor:
        noisy = (logits + gumbel) / temperature
        hard = torch.zeros_like(noisy).scatter_(-1, noisy.detach().argmax(-1, keepdim=True), 1.0)
        return straight_through(hard, _softmax(noisy))


def straight_through(value: Tensor, carrier: Tensor) -> Tensor:
    """``value``, whose gradient goes to ``carrier`` of the same shape too."""
    return _StraightThrough.apply(value, carrier)  # pyright: ignore[reportReturnType]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0]


def _softmax(logits: Tensor) -> Tensor:
    """Of each row of (..., N, K); few columns are many times faster as rows."""
    return logits.mT.softmax(-2).mT if logits.shape[-1] <= _FEW else logits.softmax(-1)

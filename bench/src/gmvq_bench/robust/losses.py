"""Reconstruction losses: mean squared, summed over an example, absolute, and with features of a random network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..comparison import blocks
from .setting import Setting

Loss = Callable[[Tensor, Tensor], Tensor]
_PERCEPTUAL = 0.5


def reconstruction_loss(setting: Setting) -> Loss:
    """(reconstruction, target) -> the loss of the setting."""
    if setting.loss == "mse":
        return F.mse_loss
    if setting.loss == "l1":
        return F.l1_loss
    if setting.loss == "sum":
        return lambda x, y: F.mse_loss(x, y, reduction="sum") / len(y)
    features = _features(setting.channels, setting.spatial_dims)
    return lambda x, y: F.mse_loss(x, y) + _PERCEPTUAL * F.mse_loss(features(x), features(y))


def _features(channels: int, dims: int) -> nn.Module:
    """A fixed network with random weights: what it sees is all that a perceptual loss without a download has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_240_607)
        kind = blocks.conv(dims)
        first, second = kind(channels, 16, 3, padding=1), kind(16, 32, 3, stride=2, padding=1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).requires_grad_(False)

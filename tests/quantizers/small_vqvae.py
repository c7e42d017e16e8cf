"""A user's own VQ-VAE in a few lines, on synthetic patches: what "drop the layer in" has to survive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ
from gmvq.types import QuantizerOutput

#: Reconstruction, input, output of the quantizer -> the loss that the user wrote.
Loss = Callable[[Tensor, Tensor, QuantizerOutput], Tensor]

SIDE, POSITIONS, DIM, CODES = 8, 4, 8, 64


def patches(count: int, seed: int) -> Tensor:
    """Images (count, 64) of two bars or waves with random angle, phase and contrast: structured, not clustered."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1.0, 1.0, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    image = torch.zeros(count, SIDE, SIDE)
    for _ in range(2):
        angle, phase = uniform(0.0, math.pi), uniform(-math.pi, math.pi)
        along = x * angle.cos() + y * angle.sin()
        image = image + uniform(0.2, 0.5) * (2.5 * along + phase).sin()
    return image.flatten(1)


class VQVAE(nn.Module):
    """Two small perceptrons around the quantizer, as a user would write it."""

    def __init__(self, quantizer: GaussianMixtureVQ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(SIDE**2, 96), nn.ReLU(), nn.Linear(96, POSITIONS * DIM))
        self.quantizer = quantizer
        self.decoder = nn.Sequential(nn.Linear(POSITIONS * DIM, 96), nn.ReLU(), nn.Linear(96, SIDE**2))

    def forward(self, x: Tensor) -> tuple[Tensor, QuantizerOutput]:
        out = self.quantizer(self.encoder(x).unflatten(-1, (POSITIONS, DIM)))
        return self.decoder(out.quantized.flatten(1)), out


@dataclass(frozen=True)
class Result:
    """Quality on test patches: error as a fraction of the data's variance, and codes in effective use."""

    unexplained: float
    perplexity: float


def batches(data: Tensor, steps: int, size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield data[torch.randint(len(data), (size,), generator=generator)]


def train(loss: Loss, *, steps: int = 300, lr: float = 3e-3, seed: int = 0, **parts: Any) -> Result:
    """Train with plain Adam over all parameters at one rate, and measure on patches not trained on."""
    torch.manual_seed(seed)
    model = VQVAE(GaussianMixtureVQ(DIM, CODES, **parts))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for x in batches(patches(4096, seed), steps, 128, seed):
        reconstruction, out = model(x)
        optimizer.zero_grad()
        loss(reconstruction, x, out).backward()
        optimizer.step()
    return measure(model)


@torch.no_grad()
def measure(model: VQVAE) -> Result:
    test = patches(2048, seed=10_000)
    reconstruction, out = model.eval()(test)
    variance = (test - test.mean(0)).square().mean()
    error = (reconstruction - test).square().mean() / variance
    return Result(float(error), float(out.terms["perplexity"]))

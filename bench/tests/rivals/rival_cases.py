"""Every baseline at one small size, and a toy autoencoder to train around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmvq.objectives import GaussianLikelihood, negative_evidence
from gmvq.types import QuantizerOutput
from gmvq_bench.rivals import BASELINES, build_baseline
from gmvq_bench.rivals.base import BaselineQuantizer

D, K = 6, 16
OURS = ("sq-vae", "gm-vq-published", "gumbel", "cvq", "ibq", "optvq", "lgq", "gq", "ae", "gaussian-vae")
CONTINUOUS = ("ae", "gaussian-vae")
ALL = tuple(BASELINES)
WITH_CODES = tuple(name for name in ALL if name not in CONTINUOUS)


def build(name: str, dim: int = D, codebook_size: int = K, **options: Any) -> BaselineQuantizer:
    """A layer from a fixed seed, or a skip where its package is not installed."""
    if name not in OURS:
        pytest.importorskip("vector_quantize_pytorch", reason="the extra bench is not installed")
    torch.manual_seed(0)
    return build_baseline(name, dim, codebook_size, **options)


def latents(*lead: int, dim: int = D, seed: int = 0, scale: float = 0.5) -> Tensor:
    return scale * torch.randn(*lead, dim, generator=torch.Generator().manual_seed(seed))


def trained(name: str, **options: Any) -> BaselineQuantizer:
    """A layer that has seen two batches in training."""
    layer = build(name, **options).train()
    for seed in (1, 2):
        layer(latents(2, 16, 8, seed=seed).requires_grad_())
    return layer


def state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def objective(
    layer: BaselineQuantizer, out: QuantizerOutput, reconstruction: Tensor, target: Tensor
) -> Tensor:
    """The loss that ``units`` stands for, for images of shape (B, n)."""
    if layer.units == "nats":
        return negative_evidence(GaussianLikelihood(), reconstruction, target, out) / target[0].numel()
    return (reconstruction - target).square().mean() + out.loss


def clusters(count: int, seed: int) -> Tensor:
    """Images (count, 1, 12) around 8 centres."""
    centres = torch.randn(8, 12, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(8, (count,), generator=generator)
    return (centres[which] + 0.1 * torch.randn(count, 12, generator=generator))[:, None]


def fit_clusters(layer: BaselineQuantizer, steps: int = 150, lr: float = 1e-2) -> tuple[float, float]:
    """Train a linear autoencoder whose latents start small; eval MSE before and after, relative to the variance."""
    torch.manual_seed(3)
    encoder, decoder = nn.Linear(12, D), nn.Linear(D, 12)
    with torch.no_grad():
        encoder.weight.mul_(0.3)
    test = clusters(256, seed=11)
    groups = [
        {"params": [*encoder.parameters(), *decoder.parameters()], "lr": lr},
        *layer.parameter_groups(lr),
    ]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]])

    def measure() -> float:
        with torch.no_grad():
            out = layer.eval()(encoder(test))
            return float((decoder(out.quantized) - test).square().mean() / test.var(0).mean())

    before = measure()
    layer.train()
    for step in range(steps):
        if hasattr(layer, "set_progress"):
            layer.set_progress(step / steps)  # pyright: ignore[reportCallIssue]
        x = clusters(64, seed=100 + step)
        out = layer(encoder(x))
        loss = objective(layer, out, decoder(out.quantized), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, measure()

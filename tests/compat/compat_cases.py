"""Modules and latents for the tests of ``gmvq.compat``: ours, and the class that it stands for, by one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

D, K = 12, 16
Options = dict[str, Any]


def build(kind: Any, **options: Any) -> Any:
    return kind(dim=D, codebook_size=K, **options)


def clusters(*shape: int) -> Tensor:
    """Latents (*shape, D) around K points."""
    points = 3 * torch.randn(K, D, generator=torch.Generator().manual_seed(1))
    return points[torch.randint(K, shape)] + 0.1 * torch.randn(*shape, D)


def started(kind: Any, **options: Any) -> Any:
    """One whose codebook has seen a batch, in eval."""
    vq = build(kind, kmeans_init=True, **options)
    x = clusters(2, 64)
    vq(
        x
        if not vq.__dict__.get("channels_first") and vq.__dict__.get("channel_last", True)
        else x.movedim(-1, 1)
    )
    return vq.eval()


def lengths() -> tuple[Tensor, Tensor]:
    lens = torch.tensor([20, 7])
    return lens, torch.arange(20) < lens[:, None]

"""The optimizer of a training, its learning rate, the noise of a step, and the memory formats of fast convolutions."""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn


def build_optimizer(
    groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], clips: bool
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay, in one fused pass per parameter where torch can.

    Lightning refuses to clip gradients for a fused optimizer, so clipping keeps the plain one.
    """
    fused = True if can_fuse(groups) and not clips else None
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=0.0, fused=fused)
    optimizer.register_load_state_dict_post_hook(_match_memory_formats)
    return optimizer


def can_fuse(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused Adam takes these parameters."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def _match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Lay loaded averages out like their parameters: fused Adam on a CPU reads memory in order, whatever the strides.

    (Gradients are laid out so by autograd.)
    """
    for parameter, averages in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if name in averages and averages[name].stride() != parameter.stride():
                averages[name] = torch.empty_like(parameter).copy_(averages[name])


def in_fastest_format(batch: Tensor) -> Tensor:
    """Images (B, C, H, W) in the memory format of the convolutions' weights; anything else contiguous."""
    return batch.contiguous(memory_format=torch.channels_last if batch.ndim == 4 else torch.contiguous_format)


def channels_last(net: nn.Module) -> None:
    """Give the weights of 2-d convolutions the memory format in which they are fastest."""
    if all(parameter.ndim in (1, 2, 4) for parameter in net.parameters()):
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def learning_rate_factor(step: int, *, total: int, warmup: int, final: float) -> float:
    """Return the factor on the learning rate: a straight line up, then half a cosine down to ``final``."""
    rise = min(1.0, (step + 1) / (warmup + 1))
    fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(total, 1))))
    return rise * (final + (1.0 - final) * fall)


def total_steps(trainer: Trainer) -> int:
    """Optimizer steps of a whole training, by the trainer's max_steps and max_epochs."""
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        raise ValueError(
            f"the schedules need to know how long training is, got {steps} steps; give trainer.max_steps or "
            "trainer.max_epochs"
        )
    return int(steps)


def scheduled(
    optimizer: torch.optim.Optimizer, total: int, *, warmup: int, final: float
) -> OptimizerLRScheduler:
    """An optimizer with the learning rate of ``learning_rate_factor``, as Lightning takes it."""
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total=total, warmup=warmup, final=final)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def seed_step(seed: int, rank: int, batch: int, device: torch.device | None = None) -> None:
    """Seed the generators of torch, numpy and random for one batch of one process.

    The noise of batch n is thereby a function of (seed, rank, n): a resumed run draws what an uninterrupted one
    would have drawn, whatever other code has consumed in between, and no generator state has to be stored.

    Of the accelerators only ``device`` is seeded. ``torch.manual_seed`` seeds every kind there might be, and for one
    that was never used it keeps the call, with a stack trace, in a list: half a millisecond and a leak in every step.
    """
    digest = hashlib.blake2b(repr((seed, rank, batch)).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    torch.default_generator.manual_seed(number & (2**63 - 1))
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(number & (2**63 - 1))
    np.random.seed(number & (2**32 - 1))
    random.seed(number)

"""The learning rate over training, and the noise of one step, as pure functions of the step's number."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler


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

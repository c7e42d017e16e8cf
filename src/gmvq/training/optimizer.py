"""The optimizer of a tokenizer, and the memory formats in which convolutions are fastest."""

from __future__ import annotations

from typing import Any

import torch
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

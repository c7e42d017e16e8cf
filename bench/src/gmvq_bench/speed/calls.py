"""What is measured of a contestant: one callable for each mode, from latents to what the step leaves to its user.

* ``forward``: training mode, the graph of the backward is built;
* ``train``: forward and backward of ``quantized.sum() * small + loss``, gradients of latents and parameters made new,
  moving averages updated where the layer has them;
* ``eval``: eval mode without gradients;
* ``search``: from latents to indices alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .contestants import Case

#: Weight of the sum of the quantized latents in the loss of a training step.
SMALL = 1e-3


def products_of(built: Any, case: Case) -> int:
    """N x K x D matrix products that no implementation of this layer avoids: 3 for a training step that gives every
    code a gradient (logits, and the gradients of both sides), 1 if all but a search is on few codes.
    """
    support = getattr(built, "support", None)
    return 3 if case.mode == "train" and (support is None or support >= case.k) else 1


def outputs_of(layer: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor, list[Any]]:
    """Quantized latents, the sum of the losses, and all that the layer returned."""
    out = layer(latents)
    returned = list(out)
    quantized, *rest = returned
    losses = [x.float().sum() for x in rest if isinstance(x, Tensor) and x.is_floating_point()]
    return quantized, sum(losses, start=quantized.new_zeros((), dtype=torch.float32)), [out]


def step_of(built: Any, case: Case, latents: Tensor) -> Callable[[], list[Any]]:
    """The callable that is measured; it returns what stays of a step: outputs, and gradients in training.

    bfloat16 latents come as they do in mixed precision: within autocast.
    """
    if case.mode == "search":
        return lambda: [built(latents)]

    def context() -> Any:
        mixed = case.dtype == "bf16"
        return torch.autocast(case.device.type, torch.bfloat16) if mixed else nullcontext()

    built.train(case.mode != "eval")
    if case.mode == "eval":

        def evaluate() -> list[Any]:
            with torch.no_grad(), context():
                return outputs_of(built, latents)[2]

        return evaluate
    source = latents.detach().requires_grad_()
    parameters = [source, *(p for p in built.parameters() if p.requires_grad)]

    def step() -> list[Any]:
        with context():
            quantized, loss, kept = outputs_of(built, source)
            loss = loss + quantized.sum() * SMALL
        if case.mode == "train":
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            kept = [*kept, *gradients]
        return kept

    return step

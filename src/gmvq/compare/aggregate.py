"""Two variants of GM-VQ for one question: over how many positions should qbar of KL(qbar || pi) be taken?

Both leave batch, optimizer and posterior alone and change the average only, so that the size of the batch as such does
not enter. They are experiments, not layers to use: one remembers batches inside ``forward``, the other ignores masks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..quantizers import GaussianMixtureVQ
from ..types import QuantizerOutput


class PartedVQ(GaussianMixtureVQ):
    """qbar of each of ``parts`` parts of the batch on its own, their objectives averaged."""

    def __init__(self, dim: int, codebook_size: int, parts: int, **options: Any) -> None:
        super().__init__(dim, codebook_size, **options)
        self.parts = parts

    def _quantize(self, rows: Tensor, valid: Tensor | None) -> QuantizerOutput:
        if not self.training or not self.started or rows.shape[0] < self.parts:
            return super()._quantize(rows, valid)
        outs = [super(PartedVQ, self)._quantize(part, None) for part in rows.tensor_split(self.parts)]
        return QuantizerOutput(
            quantized=torch.cat([out.quantized for out in outs]),
            indices=torch.cat([out.indices for out in outs]),
            loss=torch.stack([out.loss for out in outs]).mean(),
            nats=torch.stack([out.nats for out in outs]).mean(),
            log_variance=torch.cat([out.log_variance for out in outs]),
            terms={name: torch.stack([out.terms[name] for out in outs]).mean() for name in outs[0].terms},
        )

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "type": "PartedVQ", "parts": self.parts}


class RememberingVQ(GaussianMixtureVQ):
    r"""KL(q' || pi) of q' = m past + (1 - m) qbar, past the moving average of qbar with decay m.

    The gradient is log(q' / pi) for each unit of qbar, as if all of q' were of this batch: its size is kept, its
    direction is that of the longer memory.
    """

    past: Tensor

    def __init__(self, dim: int, codebook_size: int, memory: float, **options: Any) -> None:
        super().__init__(dim, codebook_size, **options)
        self.memory = memory
        self.register_buffer("past", torch.full((codebook_size,), 1.0 / codebook_size))

    def _run_rows(
        self, rows: Tensor, present: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        per_row, (soft, *sums) = super()._run_rows(rows, present)
        if self.training:
            total = float(rows.shape[0]) if present is None else present.sum()
            mixed = self.memory * self.past + (1.0 - self.memory) * soft.detach() / total
            self.past.copy_(mixed)
            soft = mixed * total + (soft - soft.detach())
        return per_row, (soft, *sums)

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "type": "RememberingVQ", "memory": self.memory}

"""From logits to draws: guidance, temperature, top-k and top-p (nucleus), with a generator of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check_positive


@dataclass(frozen=True)
class Filters:
    """How a distribution over codes is changed before it is drawn from.

    Args:
        temperature: logits are divided by it; 0 takes the most probable code.
        top_k: keep the k most probable codes; 0 keeps all.
        top_p: keep the fewest codes whose probabilities sum to p at least (Holtzman et al. 2020); 1 keeps all.
        guidance: w of classifier-free guidance (Ho & Salimans 2022): logits become (1 + w) l(label) - w l(no label);
            0 uses the label plainly.

    Raises:
        ValueError: a number is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not 1e-3 <= self.temperature <= 1e3:
            raise ValueError(f"temperature must be 0 or lie between 0.001 and 1000, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative (0 keeps all codes), got {self.top_k}")
        check_positive("top_p", self.top_p)
        if self.top_p > 1:
            raise ValueError(f"top_p must be at most 1, got {self.top_p}")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must not be negative, got {self.guidance}")

    def guided(self, logits: Tensor) -> Tensor:
        """Logits (2 B, ...), those with labels first, -> (B, ...); without guidance they are returned as they are."""
        if not self.guidance:
            return logits
        labelled, plain = logits.chunk(2)
        return torch.lerp(plain, labelled, 1.0 + self.guidance)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (..., K), float32 -> probabilities (..., K)."""
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            best = logits.topk(self.top_k)
            logits = torch.full_like(logits, -torch.inf).scatter_(-1, best.indices, best.values)
        p = logits.softmax(-1)
        if self.top_p < 1:
            ordered, order = p.sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # the mass of the more probable codes
            kept = ordered.masked_fill(before >= self.top_p, 0.0)
            p = torch.zeros_like(p).scatter_(-1, order, kept)
            p = p / p.sum(-1, keepdim=True)
        return p


def draw(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a code from probabilities (..., K) -> (...)."""
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])

r"""The masked prior: a bidirectional network fills in masked tokens; MaskGIT decoding (Chang et al. 2022).

Trained on the cross-entropy of masked tokens at mask ratios cos(pi u / 2), u ~ U(0, 1). Its likelihood is bounded
by the mean over orders (Uria et al. 2014; Hoogeboom et al. 2022): with k ~ U{1..L} and m a uniform set of k places,

    -log p(x | y) <= E_k E_m (L / k) sum_{t in m} -log p(x_t | x outside of m, y).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .filters import Filters, draw
from .network import TokenNetwork


def loss(network: TokenNetwork, ids: Tensor, label_ids: Tensor) -> Tensor:
    """Mean cross-entropy of the masked tokens of ids (B, L), nats per token; masks from the global generator."""
    ratio = torch.cos(0.5 * math.pi * torch.rand(ids.shape[0], device=ids.device))
    count = (ratio * ids.shape[1]).ceil().clamp_min(1)
    mask = _random_mask(count, ids.shape[1], None)
    return (_masked_nats(network, ids, label_ids, mask)).sum() / mask.sum()


def bound(
    network: TokenNetwork, ids: Tensor, label_ids: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """One sample of the bound on -log p(x | y) per image, (B,), nats."""
    length = ids.shape[1]
    uniform = torch.rand(ids.shape[0], device=ids.device, generator=generator)
    count = 1 + (uniform * length).floor().clamp_max(length - 1)
    mask = _random_mask(count, length, generator)
    return length / count * _masked_nats(network, ids, label_ids, mask).sum(1)


def sample(
    network: TokenNetwork,
    label_ids: Tensor,
    no_label: Tensor,
    filters: Filters,
    generator: torch.Generator | None,
    *,
    steps: int,
    choice_temperature: float,
    start: Tensor | None = None,
) -> Tensor:
    """Begin with all places masked; in each step draw all, and keep those drawn with the most confidence.

    After step s of S, floor(L cos(pi s / 2 S)) of L masked places stay so. Confidence is log p of the token drawn,
    before the filters, plus ``choice_temperature`` (1 - s / S) times Gumbel noise; without noise samples lack variety.
    ``start``, ids (B, L), begins with its own masked places, as many in every row; the others stay as they are.
    """
    spec = network.spec
    count, length = label_ids.shape[0], spec.length
    ids = torch.full((count, length), spec.mask_id, device=label_ids.device) if start is None else start
    length = int((ids[0] == spec.mask_id).sum())
    for step in range(1, steps + 1):
        masked = ids == spec.mask_id
        rows, labels = (
            (ids.repeat(2, 1), torch.cat([label_ids, no_label])) if filters.guidance else (ids, label_ids)
        )
        logits = filters.guided(_logits(network, rows, labels))
        drawn = draw(filters.probabilities(logits), generator)
        confidence = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        noise = torch.rand(confidence.shape, device=ids.device, generator=generator).clamp(1e-10, 1 - 1e-7)
        confidence = confidence - choice_temperature * (1 - step / steps) * (-noise.log()).log()
        filled = torch.where(masked, drawn + spec.offsets(ids.device), ids)
        left = min(math.floor(length * math.cos(0.5 * math.pi * step / steps) + 1e-9), length - step)
        if step < steps and left > 0:
            confidence = confidence.masked_fill(~masked, math.inf)
            again = confidence.topk(left, dim=1, largest=False).indices
            filled = filled.scatter(1, again, spec.mask_id)
        ids = filled
    return ids


def _logits(network: TokenNetwork, ids: Tensor, label_ids: Tensor) -> Tensor:
    return network.logits(network(torch.cat([label_ids[:, None], ids], 1))[:, 1:])


def _masked_nats(network: TokenNetwork, ids: Tensor, label_ids: Tensor, mask: Tensor) -> Tensor:
    """-log p of the masked tokens given the others, (B, L), zero elsewhere."""
    logits = _logits(network, ids.masked_fill(mask, network.spec.mask_id), label_ids)
    values = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), ids - network.spec.offsets(ids.device), reduction="none"
    )
    return values * mask


def _random_mask(count: Tensor, length: int, generator: torch.Generator | None) -> Tensor:
    """A uniform set of ``count`` (B,) places each, (B, length)."""
    order = torch.rand(count.shape[0], length, device=count.device, generator=generator).argsort(1)
    return order.argsort(1) < count[:, None]

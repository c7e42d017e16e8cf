r"""The autoregressive prior: log p(x | y) = sum_t log p(x_t | x_0 ... x_{t-1}, y), in the order of ``TokenSpec``.

The network reads y, x_0, ..., x_{L-2} and predicts x_0, ..., x_{L-1}: an exact likelihood, hence a rate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache

from . import ragged
from .filters import Filters, draw
from .network import TokenNetwork


def nats(network: TokenNetwork, ids: Tensor, label_ids: Tensor) -> Tensor:
    """-log p(x_t | x_<t, y) of ids (B, L) with label ids (B,) -> (B, L), nats."""
    inputs = torch.cat([label_ids[:, None], ids[:, :-1]], 1)
    logits = network.logits(network(inputs))
    return torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), ids - network.spec.offsets(ids.device), reduction="none"
    )


def walk(network: TokenNetwork, label_ids: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Go through the places one by one, with a KV cache, and let ``choose`` say each token; returns ids (R, L).

    ``label_ids`` (R,) begin the rows. ``choose`` takes the place t and its logits (R, K) to indices (R,) in [0, K).
    Of ragged codes as ``ragged.walk``.
    """
    spec = network.spec
    if spec.scales > 1:
        return ragged.walk(network, label_ids, choose)
    cache, offsets = DynamicCache(config=network.body.config), spec.offsets(label_ids.device)
    ids, chosen = label_ids, []
    for place in range(spec.length):
        hidden = network(ids[:, None], cache)[:, -1]
        indices = choose(place, network.logits_at(hidden, place))
        ids = indices + offsets[place]
        chosen.append(ids)
    return torch.stack(chosen, 1)


def sample(
    network: TokenNetwork,
    label_ids: Tensor,
    no_label: Tensor,
    filters: Filters,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw one sequence per label id (B,): what ``walk`` returns, ids (B, L); with guidance rows are computed twice."""
    count = label_ids.shape[0]
    starts = torch.cat([label_ids, no_label]) if filters.guidance else label_ids

    def choose(place: int, logits: Tensor) -> Tensor:
        drawn = draw(filters.probabilities(filters.guided(logits)), generator)
        return drawn.repeat(starts.shape[0] // count)

    return walk(network, starts, choose)[:count]

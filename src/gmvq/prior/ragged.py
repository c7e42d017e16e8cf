r"""The autoregressive prior over ragged codes: log p = sum_t log p(s_t, c_t | s_<t, c_<t, y), a token for each leaf.

Leaves come in raster order of their first positions. A token says the scale s of its leaf and the code c, as s * K + c.
The place of the next leaf is the first position that no leaf has covered yet, so places follow from tokens; a scale has
no probability where no block of its side begins. Sequences end when all positions are covered.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache

from ..quantizers.leaves import corners, divided_blocks, first_places, leaf_scales
from .network import NEVER, TokenNetwork
from .spec import TokenSpec


def sequence(spec: TokenSpec, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) of indices (B, *shape), and their places, P behind the last leaf of an item; T of the longest."""
    grid = spec.codes(indices).view(-1, *spec.shape)
    divided = divided_blocks(grid, spec.scales)
    tokens = (leaf_scales(divided, spec.shape) * spec.codebook_size + grid).flatten(1)
    own = torch.arange(spec.length, device=grid.device)
    places = torch.where(first_places(divided, spec.shape).flatten(1) == own, own, spec.length)
    places = places.sort(1).values
    places = places[:, : int((places < spec.length).sum(1).max())]
    tokens = tokens.gather(1, places.clamp_max(spec.length - 1))
    return tokens.masked_fill(places == spec.length, 0), places


def nats(network: TokenNetwork, indices: Tensor, label_ids: Tensor) -> Tensor:
    """-log p of the leaves of indices (B, *shape) with label ids (B,), (B,), nats."""
    spec = network.spec
    tokens, places = sequence(spec, indices)
    logits = _logits(
        network, network(torch.cat([label_ids[:, None], tokens[:, :-1]], 1), places=places), places
    )
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return torch.where(places < spec.length, each, 0.0).sum(1)


def walk(network: TokenNetwork, label_ids: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
    """As ``causal.walk``, with tokens in place of codes; returns the codes of all positions, (R, P).

    A row that has ended has one possible token, 0.
    """
    spec = network.spec
    cache, starts = (
        DynamicCache(config=network.body.config),
        corners(spec.shape, spec.scales, label_ids.device),
    )
    count, own = len(label_ids), torch.arange(spec.length, device=label_ids.device)
    grid, free = label_ids.new_zeros(count, spec.length), torch.ones(count, spec.length, dtype=torch.bool)
    free, ids = free.to(label_ids.device), label_ids
    for step in range(spec.length):
        ends = ~free.any(1)
        if bool(ends.all()):
            break
        places = torch.where(ends, spec.length, free.int().argmax(1))
        hidden = network(ids[:, None], cache, places[:, None])
        ids = choose(step, _logits(network, hidden, places[:, None])[:, -1])
        scale = (ids // spec.codebook_size).clamp_max(spec.scales - 1)
        covered = free & ((starts[scale] == places[:, None]) | (own == places[:, None]))
        grid = torch.where(covered, (ids % spec.codebook_size)[:, None], grid)
        free = free & ~covered
    return grid


def _logits(network: TokenNetwork, hidden: Tensor, places: Tensor) -> Tensor:
    """Hidden states (B, T, H) at places (B, T) -> float32 logits (B, T, S * K), far down where a scale cannot be."""
    spec = network.spec
    logits = (hidden @ network.head.flatten(0, 1).T).float().unflatten(-1, (spec.scales, spec.codebook_size))
    starts = corners(spec.shape, spec.scales, hidden.device)
    may = torch.cat(
        [(starts == starts[0]).T, torch.zeros(1, spec.scales, dtype=torch.bool, device=hidden.device)]
    )
    logits = logits.masked_fill(~may[places][..., None], NEVER).flatten(2)
    end = torch.full_like(logits[0, 0], NEVER)
    end[0] = 0.0
    return torch.where((places < spec.length)[..., None], logits, end)

r"""The largest of the columns of a matrix of logits (K, n), one code a row: every step is a pass over whole rows.

Codes fall into G groups c, c + G, c + 2 G, ... One pass finds the maxima of groups; a code among the k largest is in a
group whose maximum is among the k largest maxima, so the rest looks at G maxima and at the members of k groups.
``topk`` takes longer than the matrix product.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: The largest k for which k passes are faster than ``topk``.
_MAX_PASSES = 32
#: Codes that are not worth grouping.
_FEW = 256


def group_count(size: int, k: int) -> int:
    """G for the k largest of ``size`` codes: a power of two near 4 times the root of ``size``; all of few codes."""
    groups = 1 << round(math.log2(16 * size) / 2)
    return groups if size > _FEW and 2 * k <= groups else size


def largest_k(logits: Tensor, groups: int, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of each column of (K, n), K a multiple of ``groups``, falling, and their codes, (k, n)."""
    if k > _MAX_PASSES:
        values, codes = logits.T.contiguous().topk(k, -1)
        return values.T, codes.T
    grouped = logits.unflatten(0, (-1, groups))
    if grouped.shape[0] == 1:
        return _pick(logits.clone(memory_format=torch.contiguous_format), k)
    _, chosen = _pick(grouped.amax(0), k)
    members = grouped.gather(1, chosen.expand(grouped.shape[0], -1, -1)).flatten(0, 1)
    values, places = _pick(members, k)
    return values, places // k * groups + chosen.gather(0, places % k)


def _pick(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column of (m, n), falling, and their places, the lowest of equals first; overwrites."""
    # As an image whose channels, the columns, lie side by side: max-pooling takes all of them at once, which neither
    # ``max`` nor ``argmax`` does.
    size, count = values.shape
    image = values.as_strided((1, count, size, 1), (size * count, 1, count, count))
    tops, places = [], []
    for _ in range(k):
        if places:
            values.scatter_(0, places[-1], -torch.inf)
        top, place = F.max_pool2d_with_indices(image, (size, 1))
        tops.append(top.view(1, -1))
        places.append(place.view(1, -1))
    return torch.cat(tops), torch.cat(places)

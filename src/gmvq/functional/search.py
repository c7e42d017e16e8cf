r"""Search for the codes with the largest logits l_c = v.mu_c + b_c, without an N x K tensor.

With v = w z and b = log pi - 1/2 sum_d w_d mu_d^2 these are the most probable codes; with v = z and b = -|mu|^2 / 2 the
nearest. Logits are made tile by tile, in a buffer that fits the cache, and the largest selected (``selection``). A
codebook of many tiles is searched in two steps (``large_codebook``), or, for many rows, only in the cells of it that a
bound does not rule out (``cells``). On a GPU one kernel does all (``triton_topk``).

The best code is a function of its row, the codebook and the bias alone, bit by bit: neither batch nor threads matter,
for what rounding leaves open is decided exactly (``referee``, ``exact``). Ties go to the lowest code. The others of the
k best are those of logits in the dtype of the inputs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cells, large_codebook
from .referee import Referee
from .selection import group_count, largest_k

_TILE_VALUES = {"cpu": 1 << 20}


def best_code(query: Tensor, codebook: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of every row, (N,), and the code that has it, (N,), int64.

    Args:
        query: v, (N, D), float32 or float64.
        codebook: mu, (K, D).
        bias: b, (K,); -inf for a code of weight 0.
    """
    values, _, indices = best_codes(query, codebook, bias, 1)
    return values[:, 0], indices


def best_codes(
    query: Tensor, codebook: Tensor, bias: Tensor, k: int, *, half: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest logits of every row, falling, (N, k); their codes (N, k); and the code of ``best_code``.

    Args:
        query, codebook, bias: as there.
        k: 1 to K.
        half: look for candidates in bfloat16; default: where that is faster.
    """
    referee = Referee(query, codebook, bias)
    looked = min(max(k, 2), codebook.shape[0])  # the second shows whether the first is open
    if _fused(query, looked):
        from .triton_topk import topk

        values, codes = topk(query, codebook, bias.clamp_min(torch.finfo(bias.dtype).min), looked)
    elif large_codebook.pays(codebook, looked):
        found = cells.search(referee, k) if half is None else None
        if found is not None:
            return found
        step = rows_per_tile(large_codebook.TILE_CODES, query.device)
        values = query.new_empty(query.shape[0], looked)
        codes = torch.empty_like(values, dtype=torch.int64)
        large_codebook.search(referee, step, half, values, codes)
        return values[:, :k], codes[:, :k], referee.indices
    else:
        tiles = [
            largest_k(logits, groups, looked) for _, logits, groups in _tiles(query, codebook, bias, looked)
        ]
        values, codes = (torch.cat([part.T for part in parts]) for parts in zip(*tiles, strict=True))
    second = values[:, 1] if looked > 1 else values.new_full((), -torch.inf)
    open_ = ~(second < values[:, 0] - 2.0 * referee.slack(query))
    return values[:, :k], codes[:, :k], referee.settle(codes[:, 0], open_)


def rows_per_tile(width: int, device: torch.device) -> int:
    """Rows of a tile of that many codes."""
    return max(16, _TILE_VALUES.get(device.type, 1 << 25) // max(width, 256))


def _fused(query: Tensor, k: int) -> bool:
    """Whether the GPU kernel of ``triton_topk`` finds k codes."""
    return query.device.type == "cuda" and query.dtype == torch.float32 and k <= 16 and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _tiles(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> Iterator[tuple[slice, Tensor, int]]:
    """Rows, their logits (K, n) with more of -inf at the end, and the groups to select k codes, tile by tile."""
    count, size = query.shape[0], codebook.shape[0]
    groups = group_count(size, k)
    bias = bias.clamp_min(torch.finfo(bias.dtype).min)  # a code of weight 0 is still above none at all
    if size % groups:
        codebook = F.pad(codebook, (0, 0, 0, -size % groups))
        bias = F.pad(bias, (0, -size % groups), value=-torch.inf)
    step = min(rows_per_tile(size, query.device), count)
    buffer = query.new_empty(step * codebook.shape[0])
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        part = query[rows].T
        out = buffer[: codebook.shape[0] * part.shape[1]].view(-1, part.shape[1])
        torch.addmm(bias[:, None], codebook, part, out=out)
        yield rows, out, groups

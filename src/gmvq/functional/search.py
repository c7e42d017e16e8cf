r"""Exact search for the codes with the largest logits l_c = v.mu_c + b_c, without an N x K tensor.

With v = w z and b = log pi - 1/2 sum_d w_d mu_d^2 these are the most probable codes; with v = z and b = -|mu|^2 / 2 the
nearest. Logits are made tile by tile, in a buffer that fits the cache:

* a codebook of one tile is searched in it;
* a larger one in two steps: the maxima of groups of 32 codes, kept for all tiles, name k groups that must hold the
  k best codes (a code among the k best is in a group whose maximum is among the k best maxima); their k * 32 logits
  are made again. That leaves little to do beside the matrix product.

Ties go to the lowest index.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE_VALUES = {"cpu": 1 << 20}
_TILE_CODES = 1 << 13
_GROUP = 32


def first_argmax(values: Tensor, top: Tensor, codes: Tensor) -> Tensor:
    """Lowest index (n,) at which values (n, K) reach their row maximum ``top`` (n, 1); faster than ``argmax``.

    Args:
        values, top: the values and their maxima.
        codes: 0 to K - 1, (K,), int32.
    """
    size = values.shape[-1]
    return torch.where(values == top, codes, size).amin(-1).clamp_max_(size - 1).long()


def best_code(query: Tensor, codebook: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of every row (N,) and the lowest code that has it (N,), int64.

    Args:
        query: v, (N, D).
        codebook: mu, (K, D).
        bias: b, (K,).
    """
    count, size = query.shape[0], codebook.shape[0]
    if size > _TILE_CODES:
        values, _, indices = best_codes(query, codebook, bias, 2)  # the second shows a tie
        return values[:, 0], indices
    values, indices = query.new_empty(count), torch.empty(count, dtype=torch.int64, device=query.device)
    codes = torch.arange(size, dtype=torch.int32, device=query.device)
    rows = _rows_per_tile(size, query.device)
    buffer = query.new_empty(min(rows, count), size)
    for start in range(0, count, rows):
        part = query[start : start + rows]
        logits = torch.addmm(bias, part, codebook.T, out=buffer[: part.shape[0]])
        top = logits.amax(-1, keepdim=True)
        values[start : start + rows] = top[:, 0]
        indices[start : start + rows] = first_argmax(logits, top, codes)
    return values, indices


def best_codes(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest logits of every row, falling, (N, k); their codes (N, k); and the lowest code with the first.

    Args:
        query: v, (N, D).
        codebook: mu, (K, D).
        bias: b, (K,).
        k: 1 to K; at least 2 where ties shall cost nothing.
    """
    count, size = query.shape[0], codebook.shape[0]
    values, indices = query.new_empty(count, k), torch.empty(count, k, dtype=torch.int64, device=query.device)
    tiled = size > _TILE_CODES and size >= 4 * _GROUP * k
    width = _TILE_CODES if tiled else size
    rows = _rows_per_tile(width, query.device)
    buffer = query.new_empty(min(rows, count), width)
    for start in range(0, count, rows):
        part = query[start : start + rows]
        search = _tiled if tiled else _direct
        values[start : start + rows], indices[start : start + rows] = search(
            part, codebook, bias, k, buffer[: part.shape[0]]
        )
    best = torch.where(values == values[:, :1], indices, size).amin(-1).clamp_max_(size - 1)
    tied = values[:, -1] == values[:, 0]
    if size > k and bool(tied.any()):  # more codes may share the first place than were looked at
        best[tied] = _lowest(query[tied], codebook, bias)
    return values, indices, best


def _rows_per_tile(width: int, device: torch.device) -> int:
    return max(16, _TILE_VALUES.get(device.type, 1 << 25) // width)


def _direct(query: Tensor, codebook: Tensor, bias: Tensor, k: int, buffer: Tensor) -> tuple[Tensor, Tensor]:
    return torch.addmm(bias, query, codebook.T, out=buffer).topk(k, -1)


def _tiled(query: Tensor, codebook: Tensor, bias: Tensor, k: int, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates from the maxima of groups; group p of a tile of G groups holds its codes p, p + G, p + 2 G, ..."""
    size, per_tile = codebook.shape[0], _TILE_CODES // _GROUP
    maxima = []
    for first in range(0, size, _TILE_CODES):
        codes = slice(first, min(first + _TILE_CODES, size))
        width = codes.stop - first
        logits = buffer
        if width < _TILE_CODES:
            buffer.fill_(-torch.inf)
            logits = buffer[:, :width].contiguous()
        torch.addmm(bias[codes], query, codebook[codes].T, out=logits)
        if width < _TILE_CODES:
            buffer[:, :width] = logits
        maxima.append(buffer.view(-1, _GROUP, per_tile).amax(1))
    groups = torch.cat(maxima, 1).topk(k, -1, sorted=False).indices
    first = groups // per_tile * _TILE_CODES + groups % per_tile
    members = torch.arange(_GROUP, device=query.device) * per_tile
    candidates = (first[:, :, None] + members).flatten(1).sort(-1).values
    real = candidates < size
    candidates = candidates.clamp_max_(size - 1)
    logits = torch.bmm(F.embedding(candidates, codebook), query[:, :, None])[:, :, 0] + bias[candidates]
    top = logits.masked_fill_(~real, -torch.inf).topk(k, -1)
    return top.values, candidates.gather(1, top.indices)


def _lowest(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    """Lowest code with the largest logit, (n,), over all codes in row blocks."""
    rows = _rows_per_tile(codebook.shape[0], query.device)
    return torch.cat([torch.addmm(bias, part, codebook.T).argmax(-1) for part in query.split(rows)])

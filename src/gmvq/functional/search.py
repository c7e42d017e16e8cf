r"""Exact search for the codes with the largest logits l_c = v.mu_c + b_c, without an N x K tensor.

With v = w z and b = log pi - 1/2 sum_d w_d mu_d^2 these are the most probable codes; with v = z and b = -|mu|^2 / 2 the
nearest. Logits are made tile by tile, in a buffer that fits the cache:

* a codebook of one tile is searched in it;
* a larger one in two steps: the maxima of groups of codes, kept for all tiles, name the groups that must hold the
  k best codes (a code among the k best is in a group whose maximum is among the k best maxima); the logits of their
  members are made again. That leaves little to do beside the matrix product;
* where bfloat16 products are native, that step is in bfloat16 for wide codewords, with groups to spare. A row whose
  k-th best exact logit is not above every other group's maximum by the largest possible rounding error,

  .. math:: |\tilde l_c - l_c| \le (2 u + u^2) |v| |\mu_c| + u |l_c|, \qquad u = 2^{-9},

  is searched again in float32. The result is exact either way, up to the rounding of float32 logits (of TF32 ones on
  a GPU where ``torch.set_float32_matmul_precision`` allows those).

Ties go to the lowest index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import has_native_bf16

_TILE_VALUES = {"cpu": 1 << 20}
_TILE_CODES = 1 << 13
#: Codes of a group: large ones leave fewer maxima, small ones fewer members to look at.
_GROUP, _SMALL_GROUP = 32, 8
#: Groups searched exactly beyond k where maxima are in bfloat16, and the narrowest codewords for which that pays.
_SPARE_GROUPS, _HALF_DIM = 6, 32


def first_argmax(shifted: Tensor, negated_codes: Tensor, out: Tensor) -> Tensor:
    r"""Lowest index (n,) at which rows (n, K) reach their maximum; four times faster than ``argmax`` on a CPU.

    .. math:: -\max_c \left( 10^{37} (l_c - \max l) - c \right)

    The bracket is -c at a maximum and beyond -K elsewhere.

    Args:
        shifted: l - max l, (n, K).
        negated_codes: 0, -1, ..., 1 - K in the dtype of ``shifted``, which holds them exactly below 2^24.
        out: buffer, (n, K).
    """
    best = torch.add(negated_codes, shifted, alpha=1e37, out=out).amax(-1).neg_().long()
    return best.clamp_(0, shifted.shape[-1] - 1)  # a row of NaN gets some code, not an index out of range


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
    negated_codes = torch.arange(0, -size, -1, dtype=query.dtype, device=query.device)
    rows = 2 * _rows_per_tile(size, query.device)
    buffer = query.new_empty(min(rows, count), size)
    for start in range(0, count, rows):
        part = query[start : start + rows]
        logits = torch.addmm(bias, part, codebook.T, out=buffer[: part.shape[0]])
        top = logits.amax(-1, keepdim=True)
        values[start : start + rows] = top[:, 0]
        logits.sub_(top)
        indices[start : start + rows] = first_argmax(logits, negated_codes, logits)
    return values, indices


def best_codes(
    query: Tensor, codebook: Tensor, bias: Tensor, k: int, *, half: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest logits of every row, falling, (N, k); their codes (N, k); and the lowest code with the first.

    Args:
        query: v, (N, D).
        codebook: mu, (K, D).
        bias: b, (K,).
        k: 1 to K; at least 2 where ties shall cost nothing.
        half: look for candidates in bfloat16; default: where that is faster.
    """
    count, size = query.shape[0], codebook.shape[0]
    values, indices = query.new_empty(count, k), torch.empty(count, k, dtype=torch.int64, device=query.device)
    tiled = size > _TILE_CODES and size >= 16 * _SMALL_GROUP * k  # else the members cost more than the search
    rows = _rows_per_tile(_TILE_CODES if tiled else size, query.device)
    if half is None:
        half = query.device.type == "cpu" and codebook.shape[1] >= _HALF_DIM and has_native_bf16(query.device)
    rounded = _Rounded.of(codebook, bias) if tiled and half and query.dtype == torch.float32 else None
    buffer = query.new_empty(0 if tiled else min(rows, count), size)
    for start in range(0, count, rows):
        part = query[start : start + rows]
        if not tiled:
            found = torch.addmm(bias, part, codebook.T, out=buffer[: part.shape[0]]).topk(k, -1)
        elif rounded is None:
            found = _tiled(part, codebook, bias, k)
        else:
            found, doubtful = _tiled_in_half(part, codebook, bias, k, rounded)
            rounded = rounded if doubtful < 0.25 else None  # these latents need more digits than bfloat16 has
        values[start : start + rows], indices[start : start + rows] = found
    best = indices[:, 0].clone()
    if k == 1 or bool((values[:, 1] == values[:, 0]).any()):
        best = torch.where(values == values[:, :1], indices, size).amin(-1).clamp_max_(size - 1)
        tied = values[:, -1] == values[:, 0]
        if size > k and bool(tied.any()):  # more codes may share the first place than were looked at
            best[tied] = _lowest(query[tied], codebook, bias)
    return values, indices, best


def _rows_per_tile(width: int, device: torch.device, least: int = 16) -> int:
    return max(least, _TILE_VALUES.get(device.type, 1 << 25) // width)


def _tiled(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best codes, from the maxima of groups in the dtype of the inputs."""
    group = _GROUP if codebook.shape[0] >= 16 * _GROUP * k else _SMALL_GROUP
    maxima = _group_maxima(query, codebook, bias, group)
    return _among(maxima.topk(k, -1, sorted=False).indices, query, codebook, bias, k, group)


class _Rounded(NamedTuple):
    """The codebook in bfloat16, with the bias as two more features (its rounding and the rest); largest norm."""

    codebook: Tensor
    norm: Tensor

    @staticmethod
    def of(codebook: Tensor, bias: Tensor) -> _Rounded:
        high = bias.bfloat16()
        low = torch.where(high.isfinite(), bias - high.float(), 0.0).bfloat16()
        columns = torch.cat([codebook.bfloat16(), high[:, None], low[:, None]], 1)
        return _Rounded(columns, codebook.square().sum(-1).amax().sqrt())


def _tiled_in_half(
    query: Tensor, codebook: Tensor, bias: Tensor, k: int, rounded: _Rounded
) -> tuple[tuple[Tensor, Tensor], float]:
    """The k best codes from the maxima of groups in bfloat16, and the share of rows that float32 had to repeat."""
    unit = 2.0**-9
    columns = F.pad(query.bfloat16(), (0, 2), value=1.0)
    maxima = _group_maxima(columns, rounded.codebook, None, _SMALL_GROUP)
    top = maxima.topk(k + _SPARE_GROUPS, -1)
    values, codes = _among(top.indices, query, codebook, bias, k, _SMALL_GROUP)
    norms = query.square().sum(-1).sqrt() * rounded.norm
    sizes = torch.maximum(values[:, 0].abs(), values[:, -1].abs())
    # The factor covers what the formula leaves out: float32 sums, the rest of the bias, u |l~| for u |l|.
    error = 1.05 * ((2 * unit + unit**2) * norms + unit * sizes)
    doubtful = ~(values[:, -1] > top.values[:, -1].float() + error)  # NaN is doubtful
    if bool(doubtful.any()):
        values[doubtful], codes[doubtful] = _tiled(query[doubtful], codebook, bias, k)
    return (values, codes), float(doubtful.float().mean())


def _group_maxima(query: Tensor, codebook: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """Largest logit of each group, (n, groups): group p of a tile of G groups holds its codes p, p + G, p + 2 G, ..."""
    size, per_tile = codebook.shape[0], _TILE_CODES // group
    buffer = query.new_empty(query.shape[0], _TILE_CODES)
    maxima = []
    for first in range(0, size, _TILE_CODES):
        codes = slice(first, min(first + _TILE_CODES, size))
        width = codes.stop - first
        logits = buffer
        if width < _TILE_CODES:
            buffer.fill_(-torch.inf)
            logits = query.new_empty(query.shape[0], width)
        if bias is None:
            torch.mm(query, codebook[codes].T, out=logits)
        else:
            torch.addmm(bias[codes], query, codebook[codes].T, out=logits)
        if width < _TILE_CODES:
            buffer[:, :width] = logits
        maxima.append(buffer.view(-1, group, per_tile).amax(1))
    return torch.cat(maxima, 1)


def _among(
    groups: Tensor, query: Tensor, codebook: Tensor, bias: Tensor, k: int, group: int
) -> tuple[Tensor, Tensor]:
    """The k best codes of the members of groups (n, m), by exact logits."""
    size, per_tile = codebook.shape[0], _TILE_CODES // group
    members = torch.arange(group, device=query.device) * per_tile
    found = []
    rows = _rows_per_tile(groups.shape[1] * group * codebook.shape[1], query.device, least=1)
    for some, part in zip(groups.split(rows), query.split(rows), strict=True):
        first = some // per_tile * _TILE_CODES + some % per_tile
        candidates = (first[:, :, None] + members).flatten(1)
        real = candidates < size
        candidates = candidates.clamp_max_(size - 1)
        logits = torch.bmm(F.embedding(candidates, codebook), part[:, :, None])[:, :, 0] + bias[candidates]
        top = logits.masked_fill_(~real, -torch.inf).topk(k, -1)
        found.append((top.values, candidates.gather(1, top.indices)))
    values, codes = zip(*found, strict=True)
    return torch.cat(values), torch.cat(codes)


def _lowest(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    """Lowest code with the largest logit, (n,), over all codes in row blocks."""
    rows = _rows_per_tile(codebook.shape[0], query.device)
    return torch.cat([torch.addmm(bias, part, codebook.T).argmax(-1) for part in query.split(rows)])

r"""Search in a codebook of many tiles, in two steps, so that little is left to do beside the matrix product.

* The maxima of groups of codes, kept for all tiles, name the groups that must hold the k best codes: a code among the
  k best is in a group whose maximum is among the k best maxima. The logits of their members are made again.
* Where bfloat16 products are faster, the first step is in bfloat16, with groups to spare. A row whose k-th best logit
  is not above every other group's maximum by the largest possible rounding error,

  .. math:: |\tilde l_c - l_c| \le (2 u + u^2) |v| |\mu_c| + u |l_c|, \qquad u = 2^{-8},

  is searched again in the dtype of the inputs.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .autocast import has_native_bf16
from .exact import among_many, among_pairs, few_codes
from .referee import Referee
from .selection import group_count, largest_k

#: Codes of a tile.
TILE_CODES = 1 << 12
#: Codes of a group: large ones leave fewer maxima, small ones fewer members to look at.
_GROUP, _SMALL_GROUP = 32, 8
#: Groups looked at beyond k where maxima are in bfloat16, and the narrowest codewords for which that pays.
_SPARE_GROUPS, _HALF_DIM = 10, 32
#: Rows beyond which adding the bias as one more feature pays; values of the codewords that are looked at together.
_FOLD_ROWS, _MEMBER_VALUES = 64, 1 << 20
#: Rows that are decided together where most codes are about equal.
_TIED_ROWS = 128


class _Factor(NamedTuple):
    """The codebook as the first step multiplies it; the bias, or None where it is among the features."""

    codebook: Tensor
    bias: Tensor | None

    @staticmethod
    def of(codebook: Tensor, bias: Tensor, rows: int) -> _Factor:
        """In its own dtype, for so many rows."""
        if rows <= _FOLD_ROWS:
            return _Factor(codebook, bias)
        return _Factor(torch.cat([codebook, bias[:, None]], 1), None)

    @staticmethod
    def rounded(codebook: Tensor, bias: Tensor) -> _Factor:
        """In bfloat16, with the bias as two features: its rounding and the rest."""
        high = bias.bfloat16()
        low = torch.where(high.isfinite(), bias - high.float(), 0.0).bfloat16()
        return _Factor(torch.cat([codebook.bfloat16(), high[:, None], low[:, None]], 1), None)


def pays(codebook: Tensor, k: int) -> bool:
    """Whether two steps are faster than one for the k best codes; not where the members cost more than the search."""
    size = codebook.shape[0]
    return size > (1 << 13 if _half_is_faster(codebook) else 1 << 14) and size >= 16 * _SMALL_GROUP * k


def _half_is_faster(codebook: Tensor) -> bool:
    """For wide codewords on CPUs with bfloat16 products, but for Intel's without matrix units, where they are slow."""
    if codebook.device.type != "cpu" or codebook.shape[1] < _HALF_DIM or codebook.dtype != torch.float32:
        return False
    has = torch.cpu.get_capabilities()
    return has_native_bf16("cpu") and (bool(has.get("amx_bf16")) or "Intel" not in str(has.get("cpu_name")))


def search(referee: Referee, step: int, half: bool | None, values: Tensor, codes: Tensor) -> None:
    """Fill in the k >= 2 largest logits of every row, falling, and their codes, (N, k), and the referee's indices.

    A tile has ``step`` rows; the first step is in bfloat16 with ``half``, by default where that is faster.
    """
    query, codebook, bias = referee.query, referee.codebook, referee.bias
    (count, k), device = values.shape, query.device
    half = _half_is_faster(codebook) if half is None else half and query.dtype == torch.float32
    rounded = _Factor.rounded(codebook, bias) if half else None
    full = _Factor.of(codebook, bias, 0 if half else count)
    for rows in torch.arange(count, device=device).split(step):
        if rounded is None:
            values[rows], codes[rows] = _search(referee, rows, k, full)
            continue
        (values[rows], codes[rows]), doubtful = _search_in_half(referee, rows, k, rounded, full)
        if doubtful > 0.25:  # these latents need more digits than bfloat16 has
            rounded, full = None, _Factor.of(codebook, bias, count)


def _search(referee: Referee, rows: Tensor, k: int, factor: _Factor) -> tuple[Tensor, Tensor]:
    """The k best codes of rows (n,), from the maxima of groups in the dtype of the inputs."""
    group = _GROUP if referee.codebook.shape[0] >= 16 * _GROUP * k else _SMALL_GROUP
    maxima = _group_maxima(referee.query[rows], factor, group)
    found = _among(_largest(maxima, k)[1].T, referee, rows, k, group)
    _tell(referee, rows, found, maxima, group)
    return found


def _search_in_half(
    referee: Referee, rows: Tensor, k: int, rounded: _Factor, full: _Factor
) -> tuple[tuple[Tensor, Tensor], float]:
    """The k best codes from the maxima of groups in bfloat16, and the share of rows that had to be searched again."""
    unit = torch.finfo(torch.bfloat16).eps / 2
    query = referee.query[rows]
    maxima = _group_maxima(query, rounded, _SMALL_GROUP)
    top, groups = _largest(maxima, k + _SPARE_GROUPS)
    values, codes = _among(groups.T, referee, rows, k, _SMALL_GROUP)
    reach = torch.linalg.vector_norm(query, dim=1) * referee.lengths.amax()
    sizes = torch.maximum(values[:, 0].abs(), values[:, -1].abs())
    # The factor covers what the formula leaves out, the rest of the bias and u |l~| for u |l|; the slack, float32 sums.
    error = 1.05 * ((2 * unit + unit**2) * reach + unit * sizes) + 2.0 * referee.slack(query)
    certain = values[:, -1] > top[-1] + error  # NaN is not
    _tell(referee, rows, (values, codes), maxima, _SMALL_GROUP, error, certain)
    again = (~certain).nonzero()[:, 0]
    if again.numel():
        values[again], codes[again] = _search(referee, rows[again], k, full)
    return (values, codes), again.numel() / rows.numel()


def _largest(maxima: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column, falling, (k, n), and their places."""
    groups = group_count(maxima.shape[0], k)
    rest = -maxima.shape[0] % groups
    return largest_k(F.pad(maxima, (0, 0, 0, rest), value=-torch.inf) if rest else maxima, groups, k)


def _group_maxima(query: Tensor, factor: _Factor, group: int) -> Tensor:
    """Largest logit of each group, (groups, n): group p of a tile of G groups holds its codes p, p + G, p + 2 G, ..."""
    codebook, bias = factor
    query = F.pad(query.to(codebook.dtype), (0, codebook.shape[1] - query.shape[1]), value=1.0).T
    buffer = query.new_empty(TILE_CODES, query.shape[1])
    maxima = []
    for first in range(0, codebook.shape[0], TILE_CODES):
        part = codebook[first : first + TILE_CODES]
        out = buffer[: part.shape[0]]
        if bias is None:
            torch.mm(part, query, out=out)
        else:
            torch.addmm(bias[first : first + TILE_CODES, None], part, query, out=out)
        buffer[part.shape[0] :] = -torch.inf
        maxima.append(buffer.unflatten(0, (group, -1)).amax(0))
    return torch.cat(maxima)


def _maxima_of(values: Tensor, group: int) -> Tensor:
    """Largest value of each group, (groups,), of values of codes (K,)."""
    padded = F.pad(values, (0, -values.shape[0] % TILE_CODES))
    return padded.view(-1, group, TILE_CODES // group).amax(1).flatten()


def _members(groups: Tensor, group: int) -> Tensor:
    """Codes of groups, (..., group); those from K on do not exist."""
    per_tile = TILE_CODES // group
    first = groups // per_tile * TILE_CODES + groups % per_tile
    return first[..., None] + torch.arange(group, device=groups.device) * per_tile


def _among(groups: Tensor, referee: Referee, rows: Tensor, k: int, group: int) -> tuple[Tensor, Tensor]:
    """The k best codes of the members of groups (n, m), by logits in the dtype of the inputs, (n, k)."""
    codebook, size = referee.codebook, referee.codebook.shape[0]
    found = []
    step = max(1, _MEMBER_VALUES // (groups.shape[1] * group * codebook.shape[1]))
    for some, part in zip(groups.split(step), referee.query[rows].split(step), strict=True):
        candidates = _members(some, group).flatten(1)
        real = candidates < size
        candidates = candidates.clamp_max_(size - 1)
        logits = torch.bmm(F.embedding(candidates, codebook), part[:, :, None])[:, :, 0]
        logits += referee.bias[candidates]
        top = logits.masked_fill_(~real, -torch.inf).topk(k, -1)
        found.append((top.values, candidates.gather(1, top.indices)))
    values, codes = zip(*found, strict=True)
    return torch.cat(values), torch.cat(codes)


def _tell(
    referee: Referee,
    rows: Tensor,
    found: tuple[Tensor, Tensor],
    maxima: Tensor,
    group: int,
    error: Tensor | None = None,
    certain: Tensor | None = None,
) -> None:
    """Set the referee's indices of rows (n,), having decided those that rounding leaves open.

    ``found``: the best logits and codes, (n, k); ``maxima``: of all groups, (groups, n), with an ``error`` (n,) beyond
    that of other logits; ``certain``: the rows whose best codes are among those found, (n,), None for all.
    """
    values, codes = found
    query = referee.query[rows]
    finite = query.isfinite().all(-1)
    referee.indices[rows] = torch.where(finite, codes[:, 0], 0)
    # Twice the usual: a maximum that left a group out rounds by itself.
    open_ = ~(values[:, 1] < values[:, 0] - 4.0 * referee.slack(query)) & finite
    places = (open_ if certain is None else open_ & certain).nonzero()[:, 0]
    if places.numel():
        _decide(referee, rows[places], maxima[:, places], group, 0.0 if error is None else error[places])


def _decide(referee: Referee, rows: Tensor, maxima: Tensor, group: int, error: Tensor | float) -> None:
    """Decide finite rows (n,) between members of groups with M_g + e_g >= max_g' (M_g' - e_g'), M_g the maxima."""
    query, codebook, bias = referee.query[rows], referee.codebook, referee.bias
    lengths, sizes = _maxima_of(referee.lengths, group), _maxima_of(referee.sizes, group)
    slack = referee.slack_of(query, lengths, sizes) + error
    near = ~(maxima + slack < (maxima - slack).amax(0))
    groups, places = near.nonzero().unbind(1)
    if places.numel() <= rows.numel() * few_codes(maxima.shape[0]):
        codes = _members(groups, group)
        real = codes < codebook.shape[0]
        places, codes = places[:, None].expand_as(codes)[real], codes[real]
        referee.indices[rows] = among_pairs(query, codebook, bias, referee.slack(query), places, codes)
        return
    for some, part in zip(rows.split(_TIED_ROWS), near.split(_TIED_ROWS, 1), strict=True):
        codes = _members(part.any(1).nonzero()[:, 0], group).flatten().sort().values
        codes = codes[codes < codebook.shape[0]]
        referee.indices[some] = among_many(referee.query[some], codebook, bias, codes)

r"""Search in a large codebook by cells: only codes that a bound cannot rule out are multiplied.

With any omega > 0 and any E above all b_c + omega |mu_c|^2 / 2, logits are squared distances in D + 1 features,

.. math:: l_c = E + \tfrac{|v|^2}{2 \omega} - \tfrac{\omega}{2} |(\tfrac{v}{\omega}, 0) - y_c|^2, \qquad
    y_c = (\mu_c, h_c), \quad h_c^2 = \tfrac{2}{\omega} (E - b_c) - |\mu_c|^2 ,

and the best code is the nearest. omega is fitted; h is 0 where the bias is -omega |mu|^2 / 2 and a constant. k-means of
the y_c makes cells, each with centre m and radius r. A row that knows k codes with logits of t or more has its k best
within a distance d, and needs a cell only if its centre is within r + d, which is a product with the rows:

.. math:: v \cdot m + E - \tfrac{\omega}{2} (|m|^2 - r^2) - t + \omega r d \ge 0 .

Each side is taken with the largest error of its rounding, so that no code that is left out is among the k best. The C
cells are made anew in every search: that is 2 K sqrt(C) distances, and nothing has to be kept.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .exact import among_pairs
from .referee import Referee
from .selection import largest_k

#: Rows, codes, and codes for each of the k, from which it is worth a look whether cells pay; the largest k.
LEAST_ROWS, _CODES, _CODES_PER_K, _MAX_K = 1 << 13, 1 << 14, 1 << 10, 16
#: The look: so many rows may need this share of the codes on average. Codes near the k best that a row may have.
_LOOK, _SHARE, _PAIRS = 256, 0.2, 64
#: Codes of a cell; codes for each centre, and steps, of k-means.
_CELL, _SAMPLE, _STEPS = 64, 32, 4
#: Rows that are searched together, and cells that are tested together.
_BLOCK, _TESTED = 1 << 16, 16
#: Logits that are made together.
_LOGITS = 1 << 19


class _Cells(NamedTuple):
    """The cells of a codebook.

    Attributes:
        codes: of one cell after the other, rising in each, (K,).
        starts: where each cell begins, C + 1 numbers.
        folded: codewords with the bias as one more feature, in that order, (K, D + 1).
        centres: (m, E - omega |m|^2 / 2), (C, D + 1): its product with (v, 1) is largest for the nearest centre.
        tests: (m, E - omega (|m|^2 - r^2) / 2, -1, omega r), (C, D + 3), to multiply with (v, 1, t, d).
        omega, level, longest: omega, E, and the largest |y_c|.
    """

    codes: Tensor
    starts: list[int]
    folded: Tensor
    centres: Tensor
    tests: Tensor
    omega: float
    level: float
    longest: float


def search(referee: Referee, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The k largest logits of every row, falling, (N, k), their codes, (N, k), and the best code, (N,).

    None where cells do not pay, or something is not finite.
    """
    query, codebook = referee.query, referee.codebook
    (count, size), limit = (query.shape[0], codebook.shape[0]), max(_CODES, _CODES_PER_K * k)
    if query.device.type != "cpu" or k > _MAX_K or count < LEAST_ROWS or size < limit:
        return None
    cells = _make(referee)
    if cells is None or not _pay(cells, referee, k):
        return None
    values = query.new_empty(count, k)
    codes, best = torch.empty(count, k, dtype=torch.int64), torch.empty(count, dtype=torch.int64)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        found = _search(cells, referee, query[block], k)
        if found is None:
            return None
        values[block], codes[block], best[block] = found
    return values, codes, best


def _make(referee: Referee) -> _Cells | None:
    """Cells of a codebook; None where a code has no weight or is not finite."""
    codebook, bias = referee.codebook, referee.bias
    squares = codebook.square().sum(1)
    if not bool((squares + bias).isfinite().all()):
        return None
    spread = squares - squares.mean()
    omega = float(-2.0 * (spread @ bias) / (spread @ spread).clamp_min(1e-30))
    if not omega > 0.0:  # any will do
        omega = 1.0
    heights = bias + 0.5 * omega * squares
    error = 8.0 * referee.gamma * float(bias.abs().amax() + 0.5 * omega * squares.amax())
    level = float(heights.amax()) + error
    feature = ((level - error - heights) * (2.0 / omega)).clamp_min(0.0).sqrt()
    points = torch.cat([codebook, feature[:, None]], 1)
    home = _kmeans(points).unique(return_inverse=True)[1]
    sizes = torch.bincount(home)
    centres = points.new_zeros(len(sizes), points.shape[1]).index_add_(0, home, points) / sizes[:, None]
    away = torch.linalg.vector_norm(points - centres[home], dim=1).mul_(1.0 + referee.gamma)
    radii = away.new_zeros(len(sizes)).scatter_reduce_(0, home, away, "amax")
    offset = level - 0.5 * omega * centres.square().sum(1)
    widened = [offset + 0.5 * omega * radii.square(), -torch.ones_like(radii), omega * radii]
    codes = home.argsort(stable=True)
    return _Cells(
        codes,
        [0, *sizes.cumsum(0).tolist()],
        torch.cat([codebook, bias[:, None]], 1)[codes],
        torch.cat([centres[:, :-1], offset[:, None]], 1),
        torch.cat([centres[:, :-1], torch.stack(widened, 1)], 1),
        *(omega, level, float(torch.linalg.vector_norm(points, dim=1).amax())),
    )


def _kmeans(points: Tensor) -> Tensor:
    """The cell of each point, (K,): k-means twice, of all points and of those of each coarse cell."""
    count = round((len(points) / _CELL) ** 0.5)
    coarse = _nearest(points, _centres(points, count))
    home = torch.zeros_like(coarse)
    for cell, members in enumerate(coarse.argsort(stable=True).split(torch.bincount(coarse).tolist())):
        if len(members):
            part = points[members]
            finer = _centres(part, 1 + count**2 * len(part) // len(points))
            home[members] = cell * len(points) + _nearest(part, finer)
    return home


def _centres(points: Tensor, count: int) -> Tensor:
    """k-means of a part of the points, about (count, D)."""
    part = points[:: max(1, len(points) // (_SAMPLE * count))]
    centres = part[:: -(-len(part) // count)]
    for _ in range(_STEPS):
        home = _nearest(part, centres)
        sizes = torch.bincount(home, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, home, part)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, (K,)."""
    bias = -0.5 * centres.square().sum(1, keepdim=True)
    return _most(torch.cat([centres, bias], 1), F.pad(points, (0, 1), value=1.0))


def _most(centres: Tensor, rows: Tensor) -> Tensor:
    """The centre whose product with each row is the largest, (N,); of equal ones any."""
    found = []
    for part in rows.split(max(64, _LOGITS // len(centres))):
        found.append(largest_k(centres @ part.T, len(centres), 1)[1][0])
    return torch.cat(found)


def _pay(cells: _Cells, referee: Referee, k: int) -> bool:
    """Whether some rows need few codes."""
    query = referee.query
    query = query[:: max(1, len(query) // _LOOK)]
    rows = F.pad(query, (0, 1), value=1.0)
    tests = _tests(cells, referee, rows, _known(cells, rows, k))
    if not bool(tests.isfinite().all()):
        return False
    sizes = torch.tensor(cells.starts).diff()
    needed = (cells.tests @ tests.T >= 0.0).sum(1)
    return int(needed @ sizes) <= _SHARE * len(tests) * len(cells.codes)


def _search(cells: _Cells, referee: Referee, query: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """``search`` of some rows."""
    rows = F.pad(query, (0, 1), value=1.0)
    known = _known(cells, rows, k)
    tests = _tests(cells, referee, rows, known)
    if not bool(tests.isfinite().all()):
        return None
    pairs = _pairs(cells, rows, tests, known.sub_(4.0 * referee.slack(query)))
    return None if pairs is None else _decide(referee, query, k, *pairs)


def _known(cells: _Cells, rows: Tensor, k: int) -> Tensor:
    """The k-th best logit in the cell whose centre is nearest, of those with k codes, (N,); -inf if there is none."""
    sizes = torch.tensor(cells.starts).diff()
    centres = cells.centres.clone()
    centres[:, -1].masked_fill_(sizes < k, -torch.inf)
    home = _most(centres, rows)
    known = rows.new_full((len(rows),), -torch.inf)
    for cell, places in enumerate(home.argsort().split(torch.bincount(home).tolist())):
        if len(places) and sizes[cell] >= k:
            members = cells.folded[cells.starts[cell] : cells.starts[cell + 1]]
            logits = rows.index_select(0, places) @ members.T
            known[places] = logits.amax(1) if k == 1 else logits.topk(k, 1).values[:, -1]
    return known


def _tests(cells: _Cells, referee: Referee, rows: Tensor, known: Tensor) -> Tensor:
    """(v, 1, t, d), (N, D + 3): what cells are tested with, on the safe side."""
    gamma, omega, longest = referee.gamma, cells.omega, cells.longest
    least = known - 8.0 * referee.slack(rows[:, :-1])
    lengths = torch.linalg.vector_norm(rows[:, :-1], dim=1)
    squares = (lengths / omega).square() + (2.0 / omega) * (cells.level - least)
    terms = (lengths / omega).square() + (2.0 / omega) * (abs(cells.level) + least.abs())
    away = (squares + 8.0 * gamma * terms).clamp_min(0.0).sqrt()
    reach = lengths * longest + abs(cells.level) + least.abs()
    reach += omega * longest * (3.0 * longest + 2.0 * away)
    return torch.cat([rows, (least - 8.0 * gamma * reach)[:, None], away[:, None]], 1)


def _pairs(cells: _Cells, rows: Tensor, tests: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows and codes whose logits are at least ``least`` (N,), and these, (P,); None where these are too many."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    room, columns = _PAIRS * len(rows), tests.T.contiguous()
    gathered = torch.empty_like(rows)
    buffer = rows.new_empty(_LOGITS + int(torch.tensor(cells.starts).diff().amax()))
    for first in range(0, len(cells.tests), _TESTED):
        needed = (cells.tests[first : first + _TESTED] @ columns) >= 0.0
        for cell, chosen in enumerate(needed, first):
            start, end = cells.starts[cell : cell + 2]
            for places in chosen.nonzero()[:, 0].split(1 + _LOGITS // (end - start)):
                some = torch.index_select(rows, 0, places, out=gathered[: len(places)])
                logits = buffer[: (end - start) * len(places)].view(end - start, -1)
                torch.mm(cells.folded[start:end], some.T, out=logits)
                near = (logits.amax(0) >= least.index_select(0, places)).nonzero()[:, 0]
                if len(near) == 0:
                    continue
                places, logits = places.index_select(0, near), logits.index_select(1, near)
                members, which = (logits >= least.index_select(0, places)).nonzero().unbind(1)
                found.append((places[which], cells.codes[start + members], logits[members, which]))
                room -= len(which)
                if room < 0:
                    return None
    places, codes, logits = zip(*found, strict=True)
    return torch.cat(places), torch.cat(codes), torch.cat(logits)


def _decide(
    referee: Referee, query: Tensor, k: int, places: Tensor, codes: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best of the pairs of each row, and its best code: that of exact logits, where rounding leaves it open."""
    order = logits.argsort(descending=True)
    order = order[places[order].argsort(stable=True)]
    places, codes, logits = places[order], codes[order], logits[order]
    counts = torch.bincount(places, minlength=len(query))
    starts = counts.cumsum(0) - counts
    best = codes[starts]
    gap = logits[starts] - logits[(starts + 1).clamp_max_(len(logits) - 1)]
    slack = referee.slack(query)
    open_ = (counts > 1) & ~(gap > 2.0 * slack)
    rows = open_.nonzero()[:, 0]
    if rows.numel():
        chosen = open_[places]
        pairs = (open_.cumsum(0) - 1)[places[chosen]], codes[chosen]
        best[rows] = among_pairs(query[rows], referee.codebook, referee.bias, slack[rows], *pairs)
    take = starts[:, None] + torch.arange(k)
    return logits[take], codes[take], best

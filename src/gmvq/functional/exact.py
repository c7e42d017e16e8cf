r"""Which code is the best, in float64, for rows that faster logits leave open.

Logits in float64 decide where their rounding cannot matter; where it can,

.. math:: L_c = \sum_{i + j \le 2} v^{(i)} \cdot \mu_c^{(j)} + b_c

does, with v = v^(0) + v^(1) + v^(2) in pieces of so few bits that a product of pieces is exact, in whatever order it is
added up: L is the same in any shape, on any machine, and l up to a few roundings of float64. The lowest code with the
largest L wins; one whose L is NaN is below all others.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

_Product = Callable[[Tensor, Tensor], Tensor]
#: Values of the vectors in one operation.
_VALUES = 1 << 20
#: Pieces i, j of the products of L, in the order in which they are added.
_PRODUCTS = ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))


def _where_float64_exists(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """On the CPU for tensors of Apple's GPUs."""

    @wraps(function)
    def wrapped(query: Tensor, *rest: Tensor) -> Tensor:
        if query.device.type != "mps":
            return function(query, *rest)
        return function(query.cpu(), *(x.cpu() for x in rest)).to(query.device)

    return wrapped


@_where_float64_exists
def among_all(query: Tensor, codebook: Tensor, bias: Tensor, slack: Tensor) -> Tensor:
    """Best code of each row, (n,); ``slack``: the largest error of logits in the dtype of the inputs, (n,)."""
    if query.shape[0] == 0:
        return bias.new_zeros(0, dtype=torch.int64)
    logits = torch.addmm(bias.double(), query.double(), codebook.double().T)
    places, codes = (~(logits < (logits.amax(-1) - _finer(slack))[:, None])).nonzero().unbind(1)
    if places.numel() > query.shape[0] * few_codes(codebook.shape[0]):
        return among_many(query, codebook, bias, torch.arange(codebook.shape[0], device=query.device))
    return _lowest(query, codebook, bias, places, codes)


@_where_float64_exists
def among_pairs(
    query: Tensor, codebook: Tensor, bias: Tensor, slack: Tensor, places: Tensor, codes: Tensor
) -> Tensor:
    """Best code of each row, (n,), among pairs of a place in the rows and a code, (P,), at least one for each row."""
    logits = _of_pairs(_plain_dot, query, codebook, bias, places, codes)
    near = (~(logits < (_maxima(logits, places, query.shape[0]) - _finer(slack))[places])).nonzero()[:, 0]
    return _lowest(query, codebook, bias, places[near], codes[near])


@_where_float64_exists
def among_many(query: Tensor, codebook: Tensor, bias: Tensor, codes: Tensor) -> Tensor:
    """Best of ``codes`` (C,), rising, for each row of query, (n,), where many of them are equal."""
    rows = _pieces(query)
    value = rows[0].new_full((query.shape[0],), -torch.inf)
    best = codes[:1].expand(query.shape[0])
    for some in codes.split(max(1, _VALUES // max(query.shape))):
        logits = _sum(torch.mm, rows, [piece.T for piece in _pieces(codebook[some])]) + bias[some].double()
        top, places = torch.where(logits.isnan(), -torch.inf, logits).max(-1)  # the first of equals
        best = torch.where(top > value, some[places], best)
        value = torch.maximum(value, top)
    return best


def few_codes(size: int) -> int:
    """Codes of each row, out of so many, up to which pairs are faster than products of the pieces."""
    return 1 + size // 64


def _finer(slack: Tensor) -> Tensor:
    """A gap of float64 logits that their rounding, and that of L, cannot close, from the slack of other ones."""
    return slack.double() * (4.0 * torch.finfo(torch.float64).eps / torch.finfo(slack.dtype).eps)


def _lowest(query: Tensor, codebook: Tensor, bias: Tensor, places: Tensor, codes: Tensor) -> Tensor:
    """The lowest code with the largest L of each row, (n,), among pairs, at least one for each row."""
    count, size = query.shape[0], codebook.shape[0]
    if places.numel() > count:
        logits = _of_pairs(_exact_dot, query, codebook, bias, places, codes)
        logits = torch.where(logits.isnan(), -torch.inf, logits)
        codes = torch.where(logits == _maxima(logits, places, count)[places], codes, size - 1)
    return torch.full((count,), size - 1, device=codes.device).scatter_reduce_(0, places, codes, "amin")


def _of_pairs(
    dot: _Product, query: Tensor, codebook: Tensor, bias: Tensor, places: Tensor, codes: Tensor
) -> Tensor:
    step = max(1, _VALUES // query.shape[1])
    parts = [dot(query[p], codebook[c]) for p, c in zip(places.split(step), codes.split(step), strict=True)]
    return torch.cat(parts) + bias[codes].double()


def _maxima(logits: Tensor, places: Tensor, count: int) -> Tensor:
    """Largest logit of each row, (n,)."""
    return logits.new_full((count,), -torch.inf).scatter_reduce_(0, places, logits, "amax")


def _plain_dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum(-1)


def _exact_dot(a: Tensor, b: Tensor) -> Tensor:
    return _sum(_plain_dot, _pieces(a), _pieces(b))


def _sum(product: _Product, a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = product(a[2], b[0])
    for i, j in _PRODUCTS[1:]:
        total = total + product(a[i], b[j])
    return total


def _pieces(vectors: Tensor) -> list[Tensor]:
    """Three pieces of (n, D) that add up to it, multiples of powers of two so few that sums of D products are exact."""
    bits = (53 - math.ceil(math.log2(vectors.shape[1]))) // 2
    rest = vectors.double()
    largest = rest.abs().amax(-1, keepdim=True).clamp_min(1e-280)
    unit = largest / torch.frexp(largest).mantissa  # a power of two
    pieces = []
    for _ in range(3):
        unit = unit * 2.0**-bits
        pieces.append((rest / unit).round_().mul_(unit))
        rest = rest - pieces[-1]
    return pieces

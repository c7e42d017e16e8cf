"""The sampling operation in row blocks that fit the cache: any device, nothing of size N x K kept.

Forward makes one matrix product for the logits of a block and keeps per row the logarithms of its two softmax totals.
Backward makes the block's logits and noise again and adds up, with G = dL / d logits,

    dL/dv = G mu,   dL/dmu = G^T v + r^T dL/dm,   dL/db = sum_n G_n,   dL/de = r^T dL/d(r.e).

The sample's part of G, with h = dL/dr = dL/dm mu^T + dL/d(r.e) e^T, is

    soft       r (h - r.h) / tau                              r = softmax((l + g) / tau)
    hard       the same with soft r, values weighted by the one-hot argmax of l + g

and the statistics' part q (present (a - q.a) - u (log q + H)) for gradients a of the aggregate and u of the entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..noise import gumbel_noise
from ..referee import Referee
from ..selection import dividing_group_count, first_argmax

Mode = Literal["none", "soft", "hard"]

#: Exponents are kept above this, in float32: results under exp(-80) are denormals, which are several times slower.
_FLOOR = {torch.float32: -80.0, torch.float64: -700.0}
#: Values of a block: 4 MiB of float32 on a CPU, whose cache holds a few of them; launch-bound on an accelerator.
_BLOCK_VALUES = {"cpu": 1 << 20}


def block_rows(codebook_size: int, device: torch.device) -> int:
    """Rows per block: as many as make a block of about 4 MiB on a CPU, and no fewer than a matrix product wants."""
    return max(16, _BLOCK_VALUES.get(device.type, 1 << 25) // codebook_size)


@dataclass
class _Workspace:
    """Buffers of one block, reused for every block; nothing else of width K is allocated."""

    logits: Tensor
    q: Tensor
    gumbel: Tensor
    bits: Tensor
    codes: Tensor
    negated_codes: Tensor

    @staticmethod
    def like(query: Tensor, codebook_size: int, rows: int | None, mode: Mode) -> _Workspace:
        rows = min(rows or block_rows(codebook_size, query.device), query.shape[0])
        shape = (rows, codebook_size)
        noisy = shape if mode != "none" else (rows, 0)
        return _Workspace(
            query.new_empty(shape),
            query.new_empty(shape),
            query.new_empty(noisy),
            query.new_empty((2, *noisy), dtype=torch.int32),
            torch.arange(codebook_size, dtype=torch.int32, device=query.device),
            torch.arange(0, -codebook_size, -1, dtype=query.dtype, device=query.device),
        )

    def blocks(self, count: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        """Slices of the rows and views of the buffers for each of them."""
        step = self.logits.shape[0]
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            n = rows.stop - rows.start
            yield rows, self.logits[:n], self.q[:n], self.gumbel[:n], self.bits[:, :n]


def _exp(exponents: Tensor, out: Tensor) -> Tensor:
    return torch.exp(exponents.clamp_min_(_FLOOR[exponents.dtype]), out=out)


def forward(
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    temperature: Tensor,
    noise: Tensor,
    mode: Mode,
    rows_per_block: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean (N, D), second (N,), entropy (N,), aggregate (K,), indices (N,), drawn codes (N,), log-totals (2, N)."""
    count, size = query.shape[0], codebook.shape[0]
    space = _Workspace.like(query, size, rows_per_block, mode)
    mean, second = torch.empty_like(query), query.new_empty(count)
    entropy, aggregate = query.new_empty(count), query.new_zeros(size)
    drawn = torch.empty(count, dtype=torch.int64, device=query.device)
    referee, groups = Referee(query, codebook, bias), dividing_group_count(size)
    log_totals = query.new_empty(2, count)
    for rows, logits, q, gumbel, bits in space.blocks(count):
        torch.addmm(bias, query[rows], codebook.T, out=logits)
        if mode != "none":
            gumbel_noise(keys[rows], space.codes, gumbel, bits).mul_(noise).add_(logits)
            gumbel.sub_(gumbel.amax(-1, keepdim=True))
        logits.sub_(referee.judge(rows, logits.T, groups)[:, None])
        total = _exp(logits, out=q).sum(-1)
        log_total = total.log()
        log_totals[0, rows] = log_total
        entropy[rows] = log_total - logits.mul_(q).sum(-1) / total
        aggregate.addmv_(q.T, (1.0 if present is None else present[rows]) / total)
        if mode == "none":
            continue
        if mode == "soft":
            r = _exp(gumbel.div_(temperature), out=gumbel)
            total = r.sum(-1, keepdim=True)
            log_totals[1, rows] = total.log()[:, 0]
            torch.mm(r, codebook, out=mean[rows]).div_(total)
            second[rows] = (r @ extra) / total[:, 0]
        else:
            drawn[rows] = first_argmax(gumbel, space.negated_codes, q)
            log_totals[1, rows] = _exp(gumbel.div_(temperature), out=gumbel).sum(-1).log()
    if mode == "hard":
        mean, second = codebook[drawn], extra[drawn]
    return mean, second, entropy, aggregate, referee.settle(), drawn, log_totals


def backward(
    grads: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    temperature: Tensor,
    noise: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    mode: Mode,
    rows_per_block: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, codebook, bias and extra, from those of its outputs, None for zeros."""
    grad_mean, grad_second, grad_entropy, grad_aggregate = grads
    entropy, drawn, log_totals = saved
    sampled = mode != "none" and (grad_mean is not None or grad_second is not None)
    if grad_mean is None:
        grad_mean = torch.zeros_like(query)
    if grad_aggregate is None:
        grad_aggregate = torch.zeros_like(bias)
    space = _Workspace.like(query, codebook.shape[0], rows_per_block, mode if sampled else "none")
    h_buffer = torch.empty_like(space.logits if sampled else space.gumbel)
    grad_query, grad_codebook = torch.empty_like(query), torch.zeros_like(codebook)
    grad_bias, grad_extra = torch.zeros_like(bias), torch.zeros_like(extra)
    for rows, logits, q, r, bits in space.blocks(query.shape[0]):
        torch.addmm(bias, query[rows], codebook.T, out=logits)
        h = h_buffer[: logits.shape[0]]
        if sampled:
            torch.mm(grad_mean[rows], codebook.T, out=h)
            if grad_second is not None:
                h.addr_(grad_second[rows], extra)
            gumbel_noise(keys[rows], space.codes, r, bits).mul_(noise).add_(logits)
            r.sub_(r.amax(-1, keepdim=True)).div_(temperature)
            _exp(r.sub_(log_totals[1, rows, None]), out=r)
            h.sub_(torch.mul(r, h, out=q).sum(-1, keepdim=True)).mul_(r).div_(temperature)
            if mode == "soft":
                grad_codebook.addmm_(r.T, grad_mean[rows])
                if grad_second is not None:
                    grad_extra.addmv_(r.T, grad_second[rows])
        log_q = logits.sub_(logits.amax(-1, keepdim=True)).sub_(log_totals[0, rows, None])
        _exp(log_q, out=q)
        along = torch.mv(q, grad_aggregate)[:, None]
        if grad_entropy is None:
            g = torch.sub(grad_aggregate, along, out=logits)
            if present is not None:
                g.mul_(present[rows, None])
        else:
            g = log_q.add_(entropy[rows, None]).mul_(-grad_entropy[rows, None])
            g.add_((grad_aggregate - along) * (1.0 if present is None else present[rows, None]))
        g.mul_(q)
        if sampled:
            g.add_(h)
        torch.mm(g, codebook, out=grad_query[rows])
        grad_codebook.addmm_(g.T, query[rows])
        grad_bias.add_(g.sum(0))
    if sampled and mode == "hard":
        grad_codebook.index_add_(0, drawn, grad_mean)
        if grad_second is not None:
            grad_extra.index_add_(0, drawn, grad_second)
    return grad_query, grad_codebook, grad_bias, grad_extra

r"""Fused forward kernels of ``mixture_sample``: nothing of size N x K is ever in memory.

``_rows`` owns a block of rows and loops over column tiles with running maxima (the "online" softmax). With l the
logits and z = l + noise g,

.. math:: q_c = e^{l_c - \max l - \log S}, \quad S = \sum_c e^{l_c - \max l}, \quad
          H(q) = \log S - \sum_c q_c (l_c - \max l), \quad
          r_c = e^{(z_c - \max z) / \tau - \log R}, \quad R = \sum_c e^{(z_c - \max z) / \tau}

Maximum and sum stay apart: their sum, a log-normaliser, would lose three digits of logits near 1e4. ``_columns`` then
owns a column tile and sums present_n q_nc over rows, in parts where there are few columns.

Left out: with fewer row blocks than processors (N below about 2,000) the loop over a large K could be split too.
"""

# pyright: basic
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_common as common
from .triton_common import gumbel, load_rows, store_rows


@triton.jit
def _first_maximum(values, c, K):
    """Maximum over a tile's columns and the lowest column that has it."""
    top = tl.max(values, 1)
    return top, tl.min(tl.where(values == top[:, None], c[None, :], K), 1)


@triton.jit(do_not_specialize=["N", "K"])
def _rows(
    query, codebook, bias, extra, keys, temperature, noise,
    index, drawn, mean, second, entropy, q_max, q_log_sum, r_max, r_log_sum,
    N, K,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OWN: tl.constexpr, LOOP: tl.constexpr,
    PRECISION: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * OWN + tl.arange(0, OWN)
    inside = rows < N
    v = load_rows(query, rows, N, D, BLOCK_D)
    peak = tl.full((OWN,), float("-inf"), tl.float32)
    total = tl.zeros((OWN,), tl.float32)  # sum_c exp(l_c - peak)
    excess = tl.zeros((OWN,), tl.float32)  # sum_c exp(l_c - peak) (l_c - peak)
    best = tl.zeros((OWN,), tl.int32)
    if MODE != "none":
        key0 = tl.load(keys + 2 * rows, mask=inside, other=0)
        key1 = tl.load(keys + 2 * rows + 1, mask=inside, other=0)
        scale = tl.load(noise).to(tl.float32)
        sharpness = 1.0 / tl.load(temperature).to(tl.float32)
        z_peak = tl.full((OWN,), float("-inf"), tl.float32)
        z_total = tl.zeros((OWN,), tl.float32)
        z_best = tl.zeros((OWN,), tl.int32)
        m = tl.zeros((OWN, BLOCK_D), tl.float32)
        e_sum = tl.zeros((OWN,), tl.float32)

    for start in range(0, K, LOOP):
        c = start + tl.arange(0, LOOP)
        mu = load_rows(codebook, c, K, D, BLOCK_D)
        b = tl.load(bias + c, mask=c < K, other=float("-inf"))  # beyond K no code has any weight
        l = tl.dot(v, tl.trans(mu), input_precision=PRECISION) + b[None, :]
        top, first = _first_maximum(l, c, K)
        best = tl.where(top > peak, first, best)
        new = tl.maximum(peak, top)
        decay = tl.exp(peak - new)
        below = l - new[:, None]
        p = tl.exp(below)
        excess = decay * (excess + total * tl.where(total > 0, peak - new, 0.0))
        excess += tl.sum(tl.where(p > 0, p * below, 0.0), 1)
        total = decay * total + tl.sum(p, 1)
        peak = new
        if MODE != "none":
            z = l + scale * gumbel(key0[:, None], key1[:, None], c[None, :])
            top, first = _first_maximum(z, c, K)
            z_best = tl.where(top > z_peak, first, z_best)
            new = tl.maximum(z_peak, top)
            decay = tl.exp((z_peak - new) * sharpness)
            r = tl.exp((z - new[:, None]) * sharpness)
            z_total = decay * z_total + tl.sum(r, 1)
            z_peak = new
            if MODE == "soft":
                m = tl.dot(r.to(mu.dtype), mu, m * decay[:, None], input_precision=PRECISION)
                e = tl.load(extra + c, mask=c < K, other=0.0)
                e_sum = decay * e_sum + tl.sum(r * e[None, :], 1)

    tl.store(index + rows, best.to(tl.int64), mask=inside)
    tl.store(entropy + rows, tl.log(total) - excess / total, mask=inside)
    tl.store(q_max + rows, peak, mask=inside)
    tl.store(q_log_sum + rows, tl.log(total), mask=inside)
    if MODE != "none":
        tl.store(r_max + rows, z_peak, mask=inside)
        tl.store(r_log_sum + rows, tl.log(z_total), mask=inside)
        tl.store(drawn + rows, z_best.to(tl.int64), mask=inside)
    if MODE == "soft":
        store_rows(mean, rows, m / z_total[:, None], N, D, BLOCK_D)
        tl.store(second + rows, e_sum / z_total, mask=inside)


@triton.jit(do_not_specialize=["N", "K", "span"])
def _columns(
    query, codebook, bias, present, q_max, q_log_sum, partial,
    N, K, span,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OWN: tl.constexpr, LOOP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * OWN + tl.arange(0, OWN)
    mu = load_rows(codebook, c, K, D, BLOCK_D)
    b = tl.load(bias + c, mask=c < K, other=float("-inf"))
    part = tl.program_id(1)
    mass = tl.zeros((OWN,), tl.float32)
    for start in range(part * span, tl.minimum(part * span + span, N), LOOP):
        rows = start + tl.arange(0, LOOP)
        inside = rows < N
        v = load_rows(query, rows, N, D, BLOCK_D)
        l = tl.dot(mu, tl.trans(v), input_precision=PRECISION) + b[:, None]
        peak = tl.load(q_max + rows, mask=inside, other=float("inf"))  # q = 0 beyond N
        log_sum = tl.load(q_log_sum + rows, mask=inside, other=0.0)
        weight = tl.load(present + rows, mask=inside, other=0.0)
        q = tl.exp(l - peak[None, :] - log_sum[None, :])
        mass += tl.sum(q * weight[None, :], 1)
    tl.store(partial + part.to(tl.int64) * K + c, mass, mask=c < K)


def forward(
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    temperature: Tensor,
    noise: Tensor,
    mode: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``mixture_sample`` of N, K >= 1, without its autograd, in mode ``"soft"``, ``"hard"`` or ``"none"``.

    Query and codebook are float32, bfloat16 or float16, the rest is read as float32; no value is read back from the
    device. Beyond the outputs, for backward: drawn codes (N,), int64, and [max z, log R], (2, N), but in ``"none"``.
    """
    N, K = query.shape[0], codebook.shape[0]
    products = common.Products.of(query, codebook)
    v, mu, b, e = products.operand(query), products.operand(codebook), common.plain(bias), common.plain(extra)
    index, drawn = (common.empty(N, like=query, dtype=torch.int64) for _ in range(2))
    mean, second = common.empty(*query.shape, like=query), common.empty(N, like=query)
    entropy, q_max, q_log_sum = (common.empty(N, like=query) for _ in range(3))
    normalisers = common.empty(2, N, like=query)
    constants = common.tiles(v, N, products)
    common.launch(
        _rows, (triton.cdiv(N, constants["OWN"]),),
        v, mu, b, e, common.gumbel_keys(keys), temperature, noise,
        index, drawn, mean, second, entropy, q_max, q_log_sum, *normalisers, N, K, MODE=mode, **constants,
    )  # fmt: skip
    if mode != "soft":
        codes = drawn if mode == "hard" else index
        mean, second = codebook[codes].float(), e[codes]

    constants = common.tiles(v, K, products)
    blocks = triton.cdiv(K, constants["OWN"])
    parts, span = common.splits(query.device, blocks, N, constants["LOOP"])
    partial = common.empty(parts, K, like=query)
    weights = common.row_weights(present, query)
    common.launch(
        _columns, (blocks, parts), v, mu, b, weights, q_max, q_log_sum, partial, N, K, span, **constants
    )
    return mean, second, entropy, partial.sum(0), index, drawn, normalisers

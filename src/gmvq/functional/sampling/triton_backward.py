r"""Fused backward kernels of ``mixture_sample``: logits and noise are made again, nothing N x K is ever in memory.

With G = dL/dl, h_nc = dL/dr_nc = dL/dm_n . mu_c + dL/d(r.e)_n e_c, a the gradient of the aggregate, u of the entropy,

.. math:: G = r (h - r \cdot h) / \tau + q \, (\text{present} \, (a - q \cdot a) - u (\log q + H)), \\
          dL/dv = G \mu, \quad dL/d\mu = G^T v + w^T dL/dm, \quad dL/db = \sum_n G_n, \quad dL/de = w^T dL/d(r.e)

where w is r, or the one-hot of the drawn code in mode ``hard``; in mode ``none`` there are only the terms in q.

``_row_gradients`` owns rows. A first loop over column tiles finds max l, log S (cheaper made again than carried in full
precision) and q.a. The second needs r.h before it is known, and uses s = h of the drawn code: r (h - s) is small where
r is nearly one-hot, exact where it is, and the difference is put right at the end by

.. math:: \sum_c r_c (h_c - r \cdot h) \mu_c = \sum_c r_c (h_c - s) \mu_c - (r \cdot h - s) \sum_c r_c \mu_c

so that one loop, with one evaluation of the noise, the dearest part, is enough. ``_column_gradients`` owns columns and
adds over rows, in parts where there are few columns; the parts are summed in a fixed order. No atomics: deterministic.
Rounding of h, about 1e-7 |h|, is divided by tau: it shows where tau is far below the usual 0.1.
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


@triton.jit(do_not_specialize=["N", "K"])
def _row_gradients(
    grad_mean, grad_second, grad_entropy, grad_aggregate,
    query, codebook, bias, extra, present, keys, temperature, noise,
    drawn, entropy, r_max, r_log_sum,
    grad_query, q_max, q_log_sum, q_along, r_along,
    N, K,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OWN: tl.constexpr, LOOP: tl.constexpr,
    PRECISION: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * OWN + tl.arange(0, OWN)
    inside = rows < N
    v = load_rows(query, rows, N, D, BLOCK_D)
    peak = tl.full((OWN,), float("-inf"), tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    along = tl.zeros((OWN,), tl.float32)
    for start in range(0, K, LOOP):
        c = start + tl.arange(0, LOOP)
        mu = load_rows(codebook, c, K, D, BLOCK_D)
        b = tl.load(bias + c, mask=c < K, other=float("-inf"))
        l = tl.dot(v, tl.trans(mu), input_precision=PRECISION) + b[None, :]
        a = tl.load(grad_aggregate + c, mask=c < K, other=0.0)
        new = tl.maximum(peak, tl.max(l, 1))
        decay = tl.exp(peak - new)
        p = tl.exp(l - new[:, None])
        total = decay * total + tl.sum(p, 1)
        along = decay * along + tl.sum(p * a[None, :], 1)
        peak = new
    along = along / total
    log_sum = tl.log(total)
    tl.store(q_max + rows, peak, mask=inside)
    tl.store(q_log_sum + rows, log_sum, mask=inside)
    tl.store(q_along + rows, along, mask=inside)

    weight = tl.load(present + rows, mask=inside, other=0.0)
    u = tl.load(grad_entropy + rows, mask=inside, other=0.0)
    h_q = tl.load(entropy + rows, mask=inside, other=0.0)
    if MODE != "none":
        key0 = tl.load(keys + 2 * rows, mask=inside, other=0)
        key1 = tl.load(keys + 2 * rows + 1, mask=inside, other=0)
        scale = tl.load(noise).to(tl.float32)
        sharpness = 1.0 / tl.load(temperature).to(tl.float32)
        z_peak = tl.load(r_max + rows, mask=inside, other=float("inf"))
        z_log_sum = tl.load(r_log_sum + rows, mask=inside, other=0.0)
        gm = load_rows(grad_mean, rows, N, D, BLOCK_D)
        gs = tl.load(grad_second + rows, mask=inside, other=0.0)
        code = tl.load(drawn + rows, mask=inside, other=0)
        s = tl.sum(gm.to(tl.float32) * load_rows(codebook, code, K, D, BLOCK_D).to(tl.float32), 1)
        s += gs * tl.load(extra + code)
        rest = tl.zeros((OWN,), tl.float32)  # r.h - s
        m = tl.zeros((OWN, BLOCK_D), tl.float32)  # sum_c r_c mu_c
    out = tl.zeros((OWN, BLOCK_D), tl.float32)
    for start in range(0, K, LOOP):
        c = start + tl.arange(0, LOOP)
        mu = load_rows(codebook, c, K, D, BLOCK_D)
        b = tl.load(bias + c, mask=c < K, other=float("-inf"))
        l = tl.dot(v, tl.trans(mu), input_precision=PRECISION) + b[None, :]
        a = tl.load(grad_aggregate + c, mask=c < K, other=0.0)
        log_q = l - peak[:, None] - log_sum[:, None]
        q = tl.exp(log_q)
        part = weight[:, None] * (a[None, :] - along[:, None]) - u[:, None] * (log_q + h_q[:, None])
        g = tl.where(q > 0, q * part, 0.0)
        if MODE != "none":
            e = tl.load(extra + c, mask=c < K, other=0.0)
            h = tl.dot(gm, tl.trans(mu), input_precision=PRECISION) + gs[:, None] * e[None, :]
            z = l + scale * gumbel(key0[:, None], key1[:, None], c[None, :])
            r = tl.exp((z - z_peak[:, None]) * sharpness - z_log_sum[:, None])
            above = r * (h - s[:, None])
            rest += tl.sum(above, 1)
            g += above * sharpness
            m = tl.dot(r.to(mu.dtype), mu, m, input_precision=PRECISION)
        out = tl.dot(g.to(mu.dtype), mu, out, input_precision=PRECISION)
    if MODE != "none":
        out -= (rest * sharpness)[:, None] * m
        tl.store(r_along + rows, s + rest, mask=inside)
    store_rows(grad_query, rows, out, N, D, BLOCK_D)


@triton.jit(do_not_specialize=["N", "K", "span"])
def _column_gradients(
    grad_mean, grad_second, grad_entropy, grad_aggregate,
    query, codebook, bias, extra, present, keys, temperature, noise,
    drawn, entropy, r_max, r_log_sum, q_max, q_log_sum, q_along, r_along,
    grad_codebook, grad_bias, grad_extra,
    N, K, span,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OWN: tl.constexpr, LOOP: tl.constexpr,
    PRECISION: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * OWN + tl.arange(0, OWN)
    mu = load_rows(codebook, c, K, D, BLOCK_D)
    b = tl.load(bias + c, mask=c < K, other=float("-inf"))
    a = tl.load(grad_aggregate + c, mask=c < K, other=0.0)
    if MODE != "none":
        e = tl.load(extra + c, mask=c < K, other=0.0)
        scale = tl.load(noise).to(tl.float32)
        sharpness = 1.0 / tl.load(temperature).to(tl.float32)
    out = tl.zeros((OWN, BLOCK_D), tl.float32)
    out_bias = tl.zeros((OWN,), tl.float32)
    out_extra = tl.zeros((OWN,), tl.float32)
    part_id = tl.program_id(1)
    for start in range(part_id * span, tl.minimum(part_id * span + span, N), LOOP):
        rows = start + tl.arange(0, LOOP)
        inside = rows < N
        v = load_rows(query, rows, N, D, BLOCK_D)
        l = tl.dot(mu, tl.trans(v), input_precision=PRECISION) + b[:, None]
        peak = tl.load(q_max + rows, mask=inside, other=float("inf"))  # q = 0 beyond N, and r
        log_sum = tl.load(q_log_sum + rows, mask=inside, other=0.0)
        along = tl.load(q_along + rows, mask=inside, other=0.0)
        weight = tl.load(present + rows, mask=inside, other=0.0)
        u = tl.load(grad_entropy + rows, mask=inside, other=0.0)
        h_q = tl.load(entropy + rows, mask=inside, other=0.0)
        log_q = l - peak[None, :] - log_sum[None, :]
        q = tl.exp(log_q)
        part = weight[None, :] * (a[:, None] - along[None, :]) - u[None, :] * (log_q + h_q[None, :])
        g = tl.where(q > 0, q * part, 0.0)
        if MODE != "none":
            gm = load_rows(grad_mean, rows, N, D, BLOCK_D)
            gs = tl.load(grad_second + rows, mask=inside, other=0.0)
            s = tl.load(r_along + rows, mask=inside, other=0.0)
            key0 = tl.load(keys + 2 * rows.to(tl.int64), mask=inside, other=0)
            key1 = tl.load(keys + 2 * rows.to(tl.int64) + 1, mask=inside, other=0)
            z_peak = tl.load(r_max + rows, mask=inside, other=float("inf"))
            z_log_sum = tl.load(r_log_sum + rows, mask=inside, other=0.0)
            h = tl.dot(mu, tl.trans(gm), input_precision=PRECISION) + e[:, None] * gs[None, :]
            z = l + scale * gumbel(key0[None, :], key1[None, :], c[:, None])
            r = tl.exp((z - z_peak[None, :]) * sharpness - z_log_sum[None, :])
            g += r * (h - s[None, :]) * sharpness
            if MODE == "hard":
                code = tl.load(drawn + rows, mask=inside, other=-1).to(tl.int32)
                r = tl.where(c[:, None] == code[None, :], 1.0, 0.0)
            out = tl.dot(r.to(gm.dtype), gm, out, input_precision=PRECISION)
            out_extra += tl.sum(r * gs[None, :], 1)
        out = tl.dot(g.to(v.dtype), v, out, input_precision=PRECISION)
        out_bias += tl.sum(g, 1)
    at = part_id.to(tl.int64) * K
    store_rows(grad_codebook + at * D, c, out, K, D, BLOCK_D)
    tl.store(grad_bias + at + c, out_bias, mask=c < K)
    tl.store(grad_extra + at + c, out_extra, mask=c < K)


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
    mode: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, codebook, bias and extra, float32, from those of mean, second, entropy and aggregate.

    None stands for zeros. The first two do not count in mode ``"none"``, where mean and second are plain lookups.
    ``saved``: entropy, drawn and normalisers of ``forward``, which got the other arguments.
    """
    (N, D), K = query.shape, codebook.shape[0]
    entropy, drawn, normalisers = saved
    if grads[0] is None and grads[1] is None:
        mode = "none"
    grad_mean = query if mode == "none" else _given(grads[0], query, N, D)  # not read without a sample
    rows = [_given(g, query, N) for g in grads[1:3]]
    products = common.Products.of(query, codebook)
    v, mu = products.operand(query), products.operand(codebook)
    inputs = (
        products.operand(grad_mean), *rows, _given(grads[3], query, K),
        v, mu, common.plain(bias), common.plain(extra), common.row_weights(present, query),
        common.gumbel_keys(keys), temperature, noise,
    )  # fmt: skip
    h_q = common.plain(entropy)

    q_max, q_log_sum, q_along, r_along = (common.empty(N, like=query) for _ in range(4))
    grad_query = common.empty(N, D, like=query)
    constants = common.tiles(v, N, products)
    common.launch(
        _row_gradients, (triton.cdiv(N, constants["OWN"]),),
        *inputs, drawn, h_q, *normalisers,
        grad_query, q_max, q_log_sum, q_along, r_along, N, K, MODE=mode, **constants,
    )  # fmt: skip

    constants = common.tiles(v, K, products)
    blocks = triton.cdiv(K, constants["OWN"])
    parts, span = common.splits(query.device, blocks, N, constants["LOOP"])
    partial = [common.empty(parts, K, *rest, like=query) for rest in ((D,), (), ())]
    common.launch(
        _column_gradients, (blocks, parts),
        *inputs, drawn, h_q, *normalisers, q_max, q_log_sum, q_along, r_along,
        *partial, N, K, span, MODE=mode, **constants,
    )  # fmt: skip
    grad_codebook, grad_bias, grad_extra = (x.sum(0) for x in partial)
    return grad_query, grad_codebook, grad_bias, grad_extra


def _given(grad: Tensor | None, like: Tensor, *shape: int) -> Tensor:
    """A gradient as the kernels read it, zeros for None."""
    return torch.zeros(shape, device=like.device) if grad is None else common.plain(grad)

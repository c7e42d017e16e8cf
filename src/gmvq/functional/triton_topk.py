r"""The k largest logits l_c = v.mu_c + b_c of every row on a GPU, product and selection in one kernel: no N x K tensor.

A program holds some rows and their k best so far, and walks over tiles of codes. A tile that has something better than
the worst of the k best of one of its rows gives up its maxima, one after the other; as codes go by that becomes rare,
about k (1 + log(K / k)) times a row, so the product is what takes time. Where rows are few, the codes are divided among
more programs, and the k best of each part are merged.

Products are in IEEE float32, or in TF32 where torch's setting for float32 products allows that
(``torch.set_float32_matmul_precision``), accumulated in float32. Fewer than 16 features, which tensor cores cannot
multiply without padding, are multiplied one after the other.
"""

# pyright: basic
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows and codes of a tile, features that are multiplied at a time: 64 KiB of shared memory in two stages.
ROWS, CODES, FEATURES = 64, 64, 64
#: The largest k: its slots are registers.
LARGEST_K = 16


def topk(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of every row, falling, (N, k), and their codes, (N, k), int64; of equals any.

    Args:
        query: v, (N, D), float32.
        codebook: mu, (K, D), float32.
        bias: b, (K,), no less than float32's least number.
        k: 1 to ``LARGEST_K``, and at most K. A row of NaN has code 0.
    """
    (count, dim), size = query.shape, codebook.shape[0]
    blocks, tiles = max(1, triton.cdiv(count, ROWS)), triton.cdiv(size, CODES)
    parts = max(1, min(2 * processors(query.device) // blocks, tiles))
    span = CODES * triton.cdiv(tiles, parts)
    parts = triton.cdiv(size, span)
    values = empty(count, parts, k, like=query, dtype=torch.float32)
    codes = empty(count, parts, k, like=query, dtype=torch.int32)
    allows = torch.backends.cuda.matmul.fp32_precision in ("tf32", "bf16")
    launch(
        _topk,
        (blocks, parts),
        *(query.contiguous(), codebook.contiguous(), bias.contiguous(), values, codes),
        *(count, size, span),
        D=dim,
        K_BEST=k,
        SLOTS=triton.next_power_of_2(k),
        ROWS=ROWS,
        CODES=CODES,
        FEATURES=FEATURES if dim >= FEATURES else triton.next_power_of_2(dim),
        PRECISION="tf32" if allows else "ieee",
        num_warps=8,
        num_stages=2,
    )
    top, places = values.flatten(1).topk(k, -1)
    return top, codes.flatten(1).gather(1, places).long()


def empty(*shape: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Every buffer that the kernel writes comes from here, so that tests can poison it."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors, each of which wants a program or two."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start ``kernel`` on the device of its first argument, which need not be the current one."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)


@triton.jit
def _topk(
    query,
    codebook,
    bias,
    values,
    codes,
    N,
    K,
    SPAN,
    D: tl.constexpr,
    K_BEST: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    FEATURES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, columns, slots = (
        tl.program_id(0) * ROWS + tl.arange(0, ROWS),
        tl.arange(0, CODES),
        tl.arange(0, SLOTS),
    )
    best = tl.where(slots < K_BEST, float("-inf"), float("inf"))[None, :] + tl.zeros(
        (ROWS, SLOTS), tl.float32
    )
    found = tl.zeros((ROWS, SLOTS), tl.int32)
    first = tl.program_id(1) * SPAN
    for start in range(first, min(first + SPAN, K), CODES):
        here = start + columns
        logits = _products(query, codebook, rows, here, N, K, D, ROWS, CODES, FEATURES, PRECISION)
        logits += tl.load(bias + here, mask=here < K, other=0.0)[None, :]
        logits = tl.where((here < K)[None, :], logits, float("-inf"))
        top, worst = tl.max(logits, 1), tl.min(best, 1)
        while tl.max((top > worst).to(tl.int32), 0) > 0:
            column, slot = tl.argmax(logits, 1), tl.argmin(best, 1)
            put = (slots[None, :] == slot[:, None]) & (top > worst)[:, None]
            best = tl.where(put, top[:, None], best)
            found = tl.where(put, (start + column)[:, None], found)
            logits = tl.where(columns[None, :] == column[:, None], float("-inf"), logits)
            top, worst = tl.max(logits, 1), tl.min(best, 1)
    place = (rows.to(tl.int64) * tl.num_programs(1) + tl.program_id(1))[:, None] * K_BEST + slots[None, :]
    inside = (rows < N)[:, None] & (slots < K_BEST)[None, :]
    tl.store(values + place, best, mask=inside)
    tl.store(codes + place, found, mask=inside)


@triton.jit
def _products(
    query,
    codebook,
    rows,
    here,
    N,
    K,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    FEATURES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """v.mu_c of a tile of rows and codes, (ROWS, CODES); zero beyond either end. Offsets are 64-bit."""
    row, code = query + rows.to(tl.int64) * D, codebook + here.to(tl.int64) * D
    total = tl.zeros((ROWS, CODES), tl.float32)
    if FEATURES < 16:
        for d in tl.static_range(D):
            v, mu = tl.load(row + d, mask=rows < N, other=0.0), tl.load(code + d, mask=here < K, other=0.0)
            total += v[:, None] * mu[None, :]
    else:
        for begin in range(0, D, FEATURES):
            d = begin + tl.arange(0, FEATURES)
            v = tl.load(row[:, None] + d[None, :], mask=(rows < N)[:, None] & (d < D)[None, :], other=0.0)
            mu = tl.load(code[None, :] + d[:, None], mask=(here < K)[None, :] & (d < D)[:, None], other=0.0)
            total += tl.dot(v, mu, input_precision=PRECISION)
    return total

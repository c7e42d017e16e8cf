r"""What the forward and the backward GPU kernels share: the noise, tile sizes, operand types, allocation, launch.

The number type of the matrix products follows torch's own setting for float32 inputs,
``torch.set_float32_matmul_precision``: ``"highest"`` multiplies in IEEE float32, ``"high"`` in TF32, ``"medium"`` in
bfloat16. bfloat16 inputs are multiplied as they are; float16 ones in TF32, which holds them exactly and has the range
that gradients need. Every product is accumulated in float32, and softmax, entropy and sums are float32 throughout.
"""

# pyright: basic
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..noise import FIRST, GOLDEN, SECOND

_GOLDEN = tl.constexpr(GOLDEN & 0xFFFFFFFF)
_FIRST = tl.constexpr(FIRST & 0xFFFFFFFF)
_SECOND = tl.constexpr(SECOND & 0xFFFFFFFF)


@triton.jit
def gumbel(key0, key1, codes):
    """The noise of ``functional.noise``, the same words bit for bit; the arguments broadcast.

    ``tl.log`` is the exact routine, not the hardware's approximation, whose error near u = 1 would drown the upper
    tail: -log u is as small as 6e-8 there.
    """
    x = codes.to(tl.uint32) * _GOLDEN + key0.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 16)) * _FIRST ^ key1.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 15)) * _SECOND
    x = x ^ (x >> 15)
    u = ((x >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    return -tl.log(-tl.log(u))


@triton.jit
def load_rows(pointer, rows, N, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of a contiguous (N, D) matrix as a tile, zero beyond either end; offsets are 64-bit."""
    d = tl.arange(0, BLOCK_D)
    mask = (rows < N)[:, None] & (d < D)[None, :]
    return tl.load(pointer + rows.to(tl.int64)[:, None] * D + d[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, rows, values, N, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The counterpart of ``load_rows``."""
    d = tl.arange(0, BLOCK_D)
    mask = (rows < N)[:, None] & (d < D)[None, :]
    tl.store(pointer + rows.to(tl.int64)[:, None] * D + d[None, :], values, mask=mask)


@dataclass(frozen=True)
class Products:
    """The type in which tiles are held, and what ``tl.dot`` does with float32 ones."""

    dtype: torch.dtype
    precision: str

    @classmethod
    def of(cls, query: Tensor, codebook: Tensor) -> Products:
        dtype = torch.promote_types(query.dtype, codebook.dtype)
        if dtype == torch.bfloat16:
            return cls(dtype, "ieee")
        if dtype == torch.float16:
            return cls(torch.float32, "tf32")
        setting = torch.get_float32_matmul_precision()
        if setting == "medium":
            return cls(torch.bfloat16, "ieee")
        return cls(torch.float32, "tf32" if setting == "high" else "ieee")

    def operand(self, x: Tensor) -> Tensor:
        """``x`` in the product's type; the interpreter, whose bfloat16 products are wrong, gets it as float32."""
        x = x.to(self.dtype)
        return (x.float() if triton.knobs.runtime.interpret else x).contiguous()


def plain(x: Tensor) -> Tensor:
    """A vector as the kernels read it: float32, contiguous."""
    return x.to(torch.float32).contiguous()


def empty(*shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Every buffer that a kernel writes comes from here, so that tests can poison it."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors, each of which wants a program or two."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def row_weights(present: Tensor | None, query: Tensor) -> Tensor:
    """``present``, or ones for all rows."""
    return torch.ones(query.shape[0], device=query.device) if present is None else plain(present)


def gumbel_keys(keys: Tensor) -> Tensor:
    """The two key words of a row that the noise of codes uses, (N, 2)."""
    return keys[:, :2].contiguous()


def tiles(like: Tensor, owned: int, products: Products) -> dict[str, Any]:
    """Launch constants of a kernel whose programs own some of ``owned`` rows of D features and loop over others.

    Chosen so that registers hold the tiles of logits and shared memory (under 99 KiB: any GPU since Ampere) the tiles
    of features; products in IEEE float32 run outside the tensor cores and want smaller ones. Programs own fewer rows
    where processors would idle.
    """
    D = like.shape[1]
    block_d = max(16, triton.next_power_of_2(D))
    width = block_d * products.dtype.itemsize
    ieee = products == Products(torch.float32, "ieee")
    own = 32 if ieee or width > 512 else 64
    while own > 16 and triton.cdiv(owned, own) < processors(like.device):
        own //= 2
    return {
        "D": D,
        "BLOCK_D": block_d,
        "OWN": own,
        "LOOP": 16 if block_d > 128 else 32 if ieee or width > 256 else 64,
        "PRECISION": products.precision,
        "num_warps": 8 if ieee or width > 256 else 4,
        "num_stages": 2,
    }


def splits(device: torch.device, programs: int, rows: int, step: int) -> tuple[int, int]:
    """In how many parts to cut a loop over ``rows``, and their length, so that programs x parts fill the device."""
    parts = max(1, min(2 * processors(device) // programs, -(-rows // step)))
    span = step * -(-rows // (parts * step))
    return -(-rows // span), span


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start ``kernel`` on the device of its first argument, which need not be the current one."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)

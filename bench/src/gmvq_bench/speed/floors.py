"""What no implementation can be faster than on this machine: its matrix products, and the bytes that have to move.

Floors are measured beside the contestants, in the same rounds, and shown as multiples; nothing is taken from a data
sheet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .contestants import DTYPES, Case
from .measure import interleaved, timed

#: Rows and codes of a tile: its logits fit a core's cache (64 KiB to 4 MiB in float32), or are launch-bound on a GPU.
_TILES = {
    "cpu": ((64, 256), (256, 256), (128, 1024), (512, 512), (1024, 1024), (256, 4096), (128, 8192)),
    "cuda": ((4096, 4096), (16384, 4096), (65536, 1024), (8192, 16384)),
}

#: Logits of the largest floors.
_MOST = 1 << 34


def matmul_floor(case: Case, products: int, tile: tuple[int, int]) -> Callable[[], None]:
    """The matrix products of a dense layer in tiles of rows and codes, and nothing else.

    ``products`` is 1: logits = Z M^T; or 3: and both gradients, dZ += L M and dM += L^T Z.
    """
    dtype, device = DTYPES[case.dtype], case.device
    z = torch.randn(case.n, case.d, device=device).to(dtype)
    codes = torch.randn(case.k, case.d, device=device).to(dtype)
    grad_z, grad_codes = torch.zeros_like(z), torch.zeros_like(codes)
    rows, columns = min(tile[0], case.n), min(tile[1], case.k)
    whole = torch.empty(rows * columns, dtype=dtype, device=device)

    def run() -> None:
        for i in range(0, case.n, rows):
            part = z[i : i + rows]
            for j in range(0, case.k, columns):
                some = codes[j : j + columns]
                logits = whole[: len(part) * len(some)].view(len(part), len(some))
                torch.mm(part, some.T, out=logits)
                if products == 3:
                    z_sum, codes_sum = grad_z[i : i + rows], grad_codes[j : j + columns]
                    torch.addmm(z_sum, logits, some, beta=float(j > 0), out=z_sum)
                    torch.addmm(codes_sum, logits.T, part, beta=float(i > 0), out=codes_sum)

    return run


def best_tile(case: Case, products: int) -> tuple[int, int]:
    """The fastest tile for a case, tried on a part of its rows."""
    trial = Case(case.mode, min(case.n, 4096), min(case.k, 16384), case.d, case.dtype, case.device)
    # tiles that clip to the same shape are one
    shapes = {
        (min(r, trial.n), min(c, trial.k)): (r, c) for r, c in _TILES.get(case.device.type, _TILES["cuda"])
    }
    calls = {str(tile): matmul_floor(trial, products, tile) for tile in shapes.values()}
    timings, _ = interleaved(calls, case.device, seconds=0.3, at_least=2, at_most=5)
    return min(shapes.values(), key=lambda tile: timings[str(tile)].min_ms)


def floor_calls(case: Case) -> tuple[dict[str, Callable[[], None]], dict[str, tuple[int, int]]]:
    """The matmul floors of a case as calls to time, by ``matmul x 1`` and, in training, ``matmul x 3``; their tiles.

    None where they would take minutes.
    """
    if case.n * case.k > _MOST:
        return {}, {}
    wanted = (1, 3) if case.mode == "train" else (1,)
    tiles = {f"matmul x {products}": best_tile(case, products) for products in wanted}
    return {name: matmul_floor(case, int(name[-1]), tile) for name, tile in tiles.items()}, tiles


def bandwidth(device: torch.device, megabytes: int = 256, repetitions: int = 5) -> dict[str, float]:
    """Bytes per second of copy, a <- b (two arrays move), and triad, a <- b + s c (three), on arrays beyond any cache.

    The best of some repetitions counts.
    """
    count = megabytes * (1 << 20) // 4
    a, b, c = (torch.ones(count, device=device) for _ in range(3))

    def best(call: Callable[[], Tensor]) -> float:
        return min(timed(call, device) for _ in range(repetitions))

    copy = best(lambda: a.copy_(b))
    triad = best(lambda: torch.add(b, c, alpha=0.5, out=a))
    return {"copy": 2 * 4 * count / copy, "triad": 3 * 4 * count / triad}


def bytes_to_move(case: Case) -> int:
    """Bytes that a step reads and writes at least: latents and codebook in, indices out; but for a search, quantized
    latents out; in training the gradient of these in, of latents and codebook out.
    """
    rows = case.n * case.d * torch.empty(0, dtype=DTYPES[case.dtype]).element_size()
    codebook, indices = 4 * case.k * case.d, 8 * case.n
    if case.mode == "search":
        return rows + codebook + indices
    if case.mode == "train":
        return 4 * rows + 2 * codebook + indices
    return 2 * rows + codebook + indices

"""Which cases are measured, and who takes part in each: the default grid, a quick one, and large codebooks.

The default grid takes about ten minutes on a CPU of two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .contestants import ALL_PRODUCTS, CONTESTANTS, FLASH, Case

GRIDS = ("default", "quick", "cells")
#: The size of the comparison with the peer.
MAIN: dict[str, Any] = {"n": 8192, "k": 1024, "d": 64}
#: The sweep over K.
CODES = (1024, 4096, 16384, 65536, 262144)
SWEEP: dict[str, Any] = {"n": 4096, "d": 16}
#: The sweep over N, at the main K and D; the main size is one of its points.
ROWS = (2048, 32768, 65536)
LARGE: dict[str, Any] = {"n": 8192, "k": 65536, "d": 64}
SEARCH: tuple[dict[str, Any], ...] = (
    {**MAIN},
    {**MAIN, "k": 16384},
    {**MAIN, "k": 65536},
    {**SWEEP, "k": 262144},
)
#: Searches by cells, beside all products: latents, K and D.
CELLS_N = 65536
CELLS: tuple[dict[str, Any], ...] = (
    *({"n": CELLS_N, "k": 65536, "d": d, "data": "normal"} for d in (4, 8, 64)),
    {"n": CELLS_N, "k": 262144, "d": 4, "data": "normal"},
    *({"n": CELLS_N, "k": 65536, "d": d, "data": "clusters"} for d in (4, 16, 64)),
    {"n": CELLS_N, "k": 262144, "d": 8, "data": "clusters"},
)
#: Training steps and the exact search of one code: the largest codebooks.
STEPS: tuple[dict[str, Any], ...] = tuple({"n": CELLS_N, "k": k, "d": 4} for k in (65536, 262144, 1048576))
GPU_TARGET: dict[str, Any] = {"n": 65536, "k": 16384, "d": 64}
GPU_SEARCH: tuple[dict[str, Any], ...] = tuple({"n": 1 << 20, "k": 8192, "d": d} for d in (64, 4))

_OURS = ("gm-vq", "gm-vq support=8", "gm-vq support=32", "gm-vq all codes")
_PEERS = ("VectorQuantize", "VectorQuantize learnable", "SimVQ")


@dataclass(frozen=True)
class Entry:
    """A case, and the names of those that take part."""

    case: Case
    names: tuple[str, ...]


def layers() -> tuple[str, ...]:
    """Every contestant that is a layer."""
    return tuple(name for name, contestant in CONTESTANTS.items() if "train" in contestant.modes)


def searches() -> tuple[str, ...]:
    """Every contestant that is a search."""
    return tuple(name for name, contestant in CONTESTANTS.items() if "search" in contestant.modes)


#: Those of the table of searches.
_SEARCHES = tuple(name for name in searches() if name not in (ALL_PRODUCTS, FLASH))


def grid(which: str, device: torch.device) -> list[Entry]:
    """The cases of a grid, the smallest first."""
    if which not in GRIDS:
        raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {which!r}")
    if which == "quick":
        return _quick(device)
    if which == "cells":
        names = ("gm-vq search", ALL_PRODUCTS)
        found = [Entry(Case("search", **size, device=device), names) for size in CELLS]
        found.append(Entry(Case("search", **STEPS[-1], device=device), names[:1]))
        return found + [Entry(Case("train", **size, device=device), ("gm-vq",)) for size in STEPS]
    return _default(device)


def _default(device: torch.device) -> list[Entry]:
    entries = [Entry(Case(mode, **MAIN, device=device), layers()) for mode in ("train", "eval", "forward")]
    entries.append(Entry(Case("train", **MAIN, dtype="bf16", device=device), (*_OURS, *_PEERS)))
    entries += [Entry(Case("search", **size, device=device), _SEARCHES) for size in SEARCH]
    few = (*_OURS[:2], "gm-vq all codes", "VectorQuantize")
    entries += [Entry(Case("train", n, MAIN["k"], MAIN["d"], device=device), few) for n in ROWS]
    swept = (*_OURS, *_PEERS, "FSQ", "LFQ", "SQ-VAE")
    entries += [Entry(Case("train", k=k, **SWEEP, device=device), swept) for k in CODES]
    entries.append(Entry(Case("train", **LARGE, device=device), (*_OURS[:2], *_OURS[3:])))
    if device.type == "cuda":
        entries += [
            Entry(Case("train", **GPU_TARGET, dtype=dtype, device=device), (*_OURS, *_PEERS))
            for dtype in ("bf16", "fp32")
        ]
        entries += [
            Entry(Case("search", **size, device=device), ("gm-vq search", FLASH)) for size in GPU_SEARCH
        ]
    return entries


def _quick(device: torch.device) -> list[Entry]:
    main = (*_OURS, *_PEERS, "SQ-VAE")
    few = ("gm-vq", "gm-vq support=8", "VectorQuantize")
    return [
        *(Entry(Case(mode, **MAIN, device=device), main) for mode in ("train", "eval")),
        Entry(Case("search", **SEARCH[0], device=device), _SEARCHES),
        Entry(Case("train", 2048, MAIN["k"], MAIN["d"], device=device), few),
        *(Entry(Case("train", 1024, k, SWEEP["d"], device=device), few) for k in CODES[:3]),
    ]

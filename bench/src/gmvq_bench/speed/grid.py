"""Which cases are measured, and who takes part in each: the default grid, a quick one, and large codebooks.

The default grid takes about ten minutes on a CPU of two cores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .contestants import ALL_PRODUCTS, CONTESTANTS, FLASH, Case

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


class Entry(NamedTuple):
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
    """The cases of a grid of ``GRIDS``, the smallest first."""
    return [Entry(Case(**case, device=device), names) for case, names in GRIDS[which](device.type)]


_Cases = list[tuple[dict[str, Any], tuple[str, ...]]]


def _default(kind: str) -> _Cases:
    train, several = {"mode": "train"}, (*_OURS, *_PEERS)
    cases: _Cases = [({"mode": mode, **MAIN}, layers()) for mode in ("train", "eval", "forward")]
    cases.append(({**train, **MAIN, "dtype": "bf16"}, several))
    cases += [({"mode": "search", **size}, _SEARCHES) for size in SEARCH]
    few = (*_OURS[:2], "gm-vq all codes", "VectorQuantize")
    cases += [({**train, **MAIN, "n": n}, few) for n in ROWS]
    cases += [({**train, **SWEEP, "k": k}, (*several, "FSQ", "LFQ", "SQ-VAE")) for k in CODES]
    cases.append(({**train, **LARGE}, (*_OURS[:2], *_OURS[3:])))
    if kind == "cuda":
        cases += [({**train, **GPU_TARGET, "dtype": dtype}, several) for dtype in ("bf16", "fp32")]
        cases += [({"mode": "search", **size}, ("gm-vq search", FLASH)) for size in GPU_SEARCH]
    return cases


def _quick(kind: str) -> _Cases:
    few = ("gm-vq", "gm-vq support=8", "VectorQuantize")
    return [
        *(({"mode": mode, **MAIN}, (*_OURS, *_PEERS, "SQ-VAE")) for mode in ("train", "eval")),
        ({"mode": "search", **SEARCH[0]}, _SEARCHES),
        ({"mode": "train", **MAIN, "n": 2048}, few),
        *(({"mode": "train", **SWEEP, "n": 1024, "k": k}, few) for k in CODES[:3]),
    ]


def _cells(kind: str) -> _Cases:
    searches: _Cases = [({"mode": "search", **size}, ("gm-vq search", ALL_PRODUCTS)) for size in CELLS]
    searches.append(({"mode": "search", **STEPS[-1]}, ("gm-vq search",)))
    return searches + [({"mode": "train", **size}, ("gm-vq",)) for size in STEPS]


GRIDS = {"default": _default, "quick": _quick, "cells": _cells}

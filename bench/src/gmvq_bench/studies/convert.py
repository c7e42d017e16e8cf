"""Trained modules of vector-quantize-pytorch beside what ``from_vector_quantize`` makes of them: a million latents.

Where a single codebook is searched, positions that differ are decided by distances in float64. The time is that of
eval on all latents, in batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmvq.convert import from_vector_quantize

from ..rivals.peers import peer
from .records import cells_of, make_records, study_parser

DIM, BATCH = 16, 20_000
#: kind -> class of theirs and its arguments.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "EMA": ("VectorQuantize", {"codebook_size": 256}),
    "cosine": ("VectorQuantize", {"codebook_size": 256, "use_cosine_sim": True}),
    "four heads": ("VectorQuantize", {"codebook_size": 64, "heads": 4, "codebook_dim": 4}),
    "four levels": ("ResidualVQ", {"codebook_size": 64, "num_quantizers": 4}),
    "two groups of two levels": (
        "GroupedResidualVQ",
        {"codebook_size": 64, "num_quantizers": 2, "groups": 2},
    ),
}


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("convert", "Converted modules beside their originals.", list(KINDS), [0])
    parser.add_argument("--latents", type=int, default=1_000_000, help="how many are compared")
    options = parser.parse_args(list(argv))
    cells = cells_of(seed=options.seeds, method=options.methods)
    return make_records("convert", argv, options, ("latents",), cells, measure)


@torch.no_grad()
def measure(*, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one of theirs for a few batches, convert it, and compare indices and values."""
    torch.manual_seed(seed)
    kind, arguments = KINDS[method]
    theirs = getattr(peer("vector_quantize_pytorch"), kind)(dim=DIM, **arguments).train()
    for _ in range(3):
        theirs(_latents(2048))
    ours: Any = from_vector_quantize(theirs.eval()).eval()
    single = method in ("EMA", "cosine")
    counts = dict.fromkeys(("latents", "differing", "ours_nearer", "theirs_nearer", "unequal_values"), 0)
    seconds = {"gm-vq": 0.0, "vector-quantize-pytorch": 0.0}
    while counts["latents"] < options.latents:
        x = _latents(min(BATCH, options.latents - counts["latents"]))
        found = []
        for name, layer in (("vector-quantize-pytorch", theirs), ("gm-vq", ours)):
            started = time.process_time()
            found.append(tuple(layer(x)))
            seconds[name] += time.process_time() - started
        expected, out = found
        indices = expected[1].movedim(0, -1).flatten(-2) if kind == "GroupedResidualVQ" else expected[1]
        same = (out[1] == indices).flatten(2).all(-1) if indices.ndim > 2 else out[1] == indices
        counts["latents"] += x.shape[1]
        counts["differing"] += int((~same).sum())
        counts["unequal_values"] += int((out[0][same] != expected[0][same]).any(-1).sum())
        if single:
            mine, other = (_distance(x[~same], q[~same], method == "cosine") for q in (out[0], expected[0]))
            counts["ours_nearer"] += int((mine < other).sum())
            counts["theirs_nearer"] += int((other < mine).sum())
    if not single:
        del counts["ours_nearer"], counts["theirs_nearer"]
    return {**counts, "eval_seconds": seconds}


def _latents(count: int) -> Tensor:
    return 0.3 + 2.0 * torch.randn(1, count, DIM)


def _distance(x: Tensor, codes: Tensor, cosine: bool) -> Tensor:
    """Squared distance of latents (N, D), or of their directions, to codes, in float64."""
    x = F.normalize(x.double(), dim=-1) if cosine else x.double()
    return (x - codes.double()).square().sum(-1)

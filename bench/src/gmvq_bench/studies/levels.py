"""Eight residual levels beside ``ResidualVQ``: the error that every level leaves, on three data sets.

Latents are the first 8 principal components of patches of 4 x 4 pixels, divided by the deviation of the first; the
quantizers alone are trained, on the same batches: with Adam on mean squared error plus its own loss where one has
parameters. What a level leaves is the mean squared error of the test split's latents, read from the levels up to it.
``beam`` keeps as many paths: ours in the search of eval, theirs also in training.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmvq import ResidualGMVQ
from gmvq.data import open_images

from ..rivals.peers import peer
from .records import cells_of, make_records, study_parser

DATA: dict[str, dict[str, Any]] = {
    "photos": {"size": 32},
    "fashion_mnist": {"size": 28, "channels": 1},
    "emoji": {"size": 64},
}
METHODS = ("gm-vq", "ResidualVQ", "ResidualVQ, beam")
DIM, CODES, LEVELS, BEAM, SIDE, RATE = 8, 64, 8, 4, 4, 3e-3
IMAGES, PATCHES = 500, 10_000


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("levels", "Eight residual levels beside ResidualVQ.", METHODS, range(3))
    parser.add_argument("--data", nargs="+", default=list(DATA), help="default: all")
    parser.add_argument("--batch", type=int, default=512, help="latents per step (default: 512)")
    parser.set_defaults(steps=300)
    options = parser.parse_args(list(argv))
    cells = cells_of(seed=options.seeds, data=options.data, method=options.methods)
    return make_records("levels", argv, options, ("steps", "batch"), cells, measure)


def measure(*, data: str, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one; the error after each level by greedy search, and by a beam."""
    torch.manual_seed(seed)
    train, test = latents(data)
    layer = layer_of(method)
    # Theirs has moving averages alone.
    optimizer = torch.optim.Adam(layer.parameters(), RATE) if method == "gm-vq" else None
    for _ in range(options.steps):
        x = train[torch.randint(len(train), (options.batch,))]
        quantized, _, loss = tuple(layer(x))[:3]
        if optimizer is not None:
            optimizer.zero_grad()
            (F.mse_loss(quantized, x) + loss).backward()
            optimizer.step()
    layer.eval()
    with torch.no_grad():
        codes = {"greedy": _codes(layer, test, 1), "beam": _codes(layer, test, BEAM)}
        return {
            name: [float((read - test).square().mean()) for read in parts.cumsum(0)]
            for name, parts in codes.items()
        }


def layer_of(method: str) -> Any:
    """Ours, or theirs with what its documentation recommends against codes that nothing uses."""
    if method == "gm-vq":
        return ResidualGMVQ(DIM, CODES, LEVELS, beam=BEAM, units="latents")
    settings = {"num_quantizers": LEVELS, "kmeans_init": True, "threshold_ema_dead_code": 2}
    settings |= {"beam_size": BEAM} if "beam" in method else {}
    return peer("vector_quantize_pytorch").ResidualVQ(dim=DIM, codebook_size=CODES, **settings)


def _codes(layer: Any, x: Tensor, width: int) -> Tensor:
    """What each level adds, (levels, N, D), by a search that keeps so many paths."""
    if not isinstance(layer, ResidualGMVQ):
        return layer(x, return_all_codes=True, beam_size=width)[-1]
    layer.beam = width
    reads = torch.stack(list(layer.progressive(layer.encode(x).unbind(-1))))
    return reads.diff(dim=0, prepend=torch.zeros_like(reads[:1]))


@functools.cache
def latents(data: str) -> tuple[Tensor, Tensor]:
    """Latents (N, D) of the train and of the test split."""
    train, test = (_patches(data, split) for split in ("train", "test"))
    axes = torch.linalg.svd(train - train.mean(0), full_matrices=False).Vh[:DIM]
    parts = [(rows - train.mean(0)) @ axes.T for rows in (train, test)]
    return parts[0] / parts[0][:, 0].std(), parts[1] / parts[0][:, 0].std()


def _patches(data: str, split: str) -> Tensor:
    """Patches (N, C * 16), drawn from the first images of a split."""
    found = open_images(data, split=split, augment=False, **DATA[data])
    images = torch.stack([found[i] for i in range(min(IMAGES, len(found)))])
    rows = F.unfold(images, SIDE, stride=SIDE).movedim(1, -1).flatten(0, 1)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:PATCHES]]

"""What docs/codes.md promises, beside what one would do without it.

``access``: CPU time and memory of the five likeliest codes, and of a cross-entropy on given codes with its gradient,
beside ``VectorQuantize``. ``resize``: a codebook of 256 codes, trained in a network on photographs, at other sizes: the
error that the codes leave of latents of the test split, beside k-means anew, and beside a change by hand (grown: codes
drawn by their use, with noise; shrunk: the most used are kept). ``usage``: 65,536 codes, started by k-means on 131,072
latents of that network and trained for 15 steps: how many of them 327,680 latents use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmvq import GaussianMixtureVQ
from gmvq.evaluation.batches import image_batches
from gmvq.functional.divergences import perplexity
from gmvq.functional.kmeans import nearest_code
from gmvq.quantizers import resize_codebook

from ..comparison.train import train_model
from ..rivals.peers import peer
from ..speed.contestants import Case, gm_vq
from ..speed.measure import extra_memory, interleaved
from .records import cells_of, images_of, make_records, study_parser, tuned_run

CPU = torch.device("cpu")
#: (N, K, D) of ``access``, and sizes of ``resize``.
ACCESS, LIKELIEST = ((8192, 1024, 64), (4096, 8192, 16)), 5
SIZES = (128, 512, 1024)
#: Of ``usage``: codes, latents of the start, latents that are counted, steps.
USAGE = (65_536, 131_072, 327_680, 15)
METHODS = ("access", "resize", "usage")


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    options = study_parser("codes", "What docs/codes.md promises, measured.", METHODS, range(3)).parse_args(
        list(argv)
    )
    cells = [
        cell
        for cell in cells_of(method=options.methods, seed=options.seeds)
        if cell["method"] != "access" or cell["seed"] == options.seeds[0]
    ]
    return make_records("codes", argv, options, ("steps",), cells, measure)


def measure(*, method: str, seed: int, options: Any) -> dict[str, Any]:
    """The figures of one part."""
    if method == "access":
        return {"rows": [access(*size) for size in ACCESS]}
    model: Any = train_model(tuned_run("photos32", "photos32-k256", "gm-vq", seed, options.steps))
    torch.manual_seed(seed)
    return resize(model) if method == "resize" else usage(model)


def access(n: int, k: int, d: int) -> dict[str, Any]:
    """Milliseconds of CPU time and peak bytes of each call, ours and theirs."""
    case = Case("eval", n, k, d)
    x = case.latents()
    ours = gm_vq()(case).eval()
    theirs: Any = peer("vector_quantize_pytorch").VectorQuantize(dim=d, codebook_size=k).eval()
    codes = ours.encode(x)
    source = x.clone().requires_grad_()
    gradient = torch.autograd.grad
    calls: dict[str, Callable[[], Any]] = {
        "topk, gm-vq": torch.no_grad()(lambda: ours.posterior(x).topk(LIKELIEST)),
        "topk, VectorQuantize": torch.no_grad()(lambda: theirs(x[None], topk=LIKELIEST)),
        "cross-entropy, gm-vq": lambda: gradient(ours.posterior(source).cross_entropy(codes), source),
        "cross-entropy, VectorQuantize": lambda: gradient(
            theirs(source[None], indices=codes[None])[1], source
        ),
    }
    timings, failures = interleaved(calls, CPU, seconds=0, clock=time.process_time)
    if failures:
        raise RuntimeError(f"a call of the study failed: {failures}")
    figures = {
        name: {"ms": timings[name].median_ms, "peak_bytes": extra_memory(call, CPU).peak}
        for name, call in calls.items()
    }
    return {"n": n, "k": k, "d": d, **figures}


def resize(model: Any) -> dict[str, Any]:
    """Errors of test latents (standardised, per feature) at each size, by each way to get there."""
    layer: GaussianMixtureVQ = model.quantizer
    train, test = (_latents(model, split, 1024) for split in ("train", "test"))
    with torch.no_grad():
        z, held_out = layer.standardized(train), layer.standardized(test)
        codebook = layer.codebook.detach()
        rows = [{"k": len(codebook), "before": _error(held_out, codebook)}]
        for size in SIZES:
            resized = resize_codebook(layer, train, size).layer.codebook.detach()
            fresh = GaussianMixtureVQ(z.shape[1], size, units="latents")
            fresh.init_codebook(z)
            anew = fresh.get_codes_from_indices(torch.arange(size))
            ways = {"resize_codebook": resized, "k-means anew": anew, "by hand": _by_hand(z, codebook, size)}
            rows.append({"k": size, **{name: _error(held_out, codes) for name, codes in ways.items()}})
    return {"rows": rows}


def _error(z: Tensor, codebook: Tensor) -> float:
    return float(nearest_code(z, codebook)[1].mean()) / z.shape[1]


def _by_hand(z: Tensor, codebook: Tensor, size: int) -> Tensor:
    index, distance = nearest_code(z, codebook)
    counts = index.bincount(minlength=len(codebook)).float()
    if size < len(codebook):
        return codebook[counts.topk(size).indices]
    drawn = codebook[counts.multinomial(size - len(codebook), replacement=True)]
    noise = torch.randn_like(drawn) * (distance.mean() / z.shape[1]).sqrt()
    return torch.cat([codebook, drawn + noise])


def usage(model: Any) -> dict[str, Any]:
    """Share of the codes in use, and perplexity over K, after the start and after the steps."""
    codes, start, count, steps = USAGE
    x = _latents(model, "train", -(-count // 64))[:count]
    torch.manual_seed(0)
    layer = GaussianMixtureVQ(x.shape[1], codes, units="latents")
    layer.init_codebook(x[torch.randperm(len(x))[:start]])
    found = {"k": codes, "latents": len(x), "start": _use(layer, x)}
    optimizer = torch.optim.Adam(layer.parameters(), 1e-3)
    layer.train()
    for _ in range(steps):
        rows = x[torch.randint(len(x), (65_536,))]
        out = layer(rows)
        optimizer.zero_grad()
        (F.mse_loss(out.quantized, rows) + out.loss).backward()
        optimizer.step()
    return {**found, "steps": steps, "end": _use(layer, x)}


def _use(layer: GaussianMixtureVQ, x: Tensor) -> dict[str, float]:
    counts = layer.eval().encode(x).bincount(minlength=layer.codebook_size)
    return {
        "usage": float((counts > 0).float().mean()),
        "perplexity": float(perplexity(counts)) / len(counts),
    }


@torch.no_grad()
def _latents(model: Any, split: str, images: int) -> Tensor:
    """Latents (N, D) of so many images of the model's data, crops of the train split."""
    run = tuned_run("photos32", "photos32-k256", "gm-vq", 0)
    found = images_of(run, split, augment=split == "train")
    batches = image_batches(found, batch_size=256, device=CPU, limit=images)
    return torch.cat([model._latents(x).flatten(0, -2) for x in batches])

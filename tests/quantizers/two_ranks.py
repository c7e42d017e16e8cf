"""What each of two gloo processes runs; results go to files, so that one spawn serves every test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from quantizer_cases import D, latents, layer, move
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gmvq import GaussianMixtureVQ, GroupedGMVQ, PyramidGMVQ, RaggedGMVQ, ResidualGMVQ
from gmvq.quantizers import resize_codebook

WORLD = 2
ROWS = 24
#: Rows of each rank: the batch is dealt out unevenly.
SPLIT = (slice(0, 15), slice(15, ROWS))
ITEMS = (slice(0, 4), slice(4, 6))
MASK = torch.arange(ROWS) % 4 != 1
EMPTY_SECOND = torch.arange(ROWS) < 12  # leaves rank 1 nothing but padding

CASES: dict[str, dict[str, Any]] = {
    "albo": {"kind": "albo", "mixture_weights": "learned"},
    "elbo": {"kind": "elbo", "per_feature": True},
    "literal": {"kind": "literal"},
    "not standardised": {"kind": "albo", "standardize": False},
    "truncated": {"kind": "albo", "support": 3},
    "straight through": {"kind": "albo", "straight_through": True, "commitment": 0.25},
}
MASKS: dict[str, Tensor | None] = {"all": None, "some": MASK, "one rank empty": EMPTY_SECOND}


def step(
    built: torch.nn.Module, x: Tensor, mask: Tensor | None, *, nats: bool, total: int, world: int
) -> dict[str, Any]:
    """Forward and backward of a loss whose mean over ranks is the mean over all positions."""
    x = x.clone().requires_grad_()
    out = built(x, mask)
    error = (out.quantized - x.detach().sin()).square().sum(-1)
    error = (error if mask is None else error * mask).sum() * world / (total * D)
    (error + (out.nats if nats else out.loss)).backward()
    inner = getattr(built, "module", built)
    grads = {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}
    return {
        "nats": out.nats.detach(),
        "terms": out.terms,
        "grads": grads,
        "latents": x.grad / world,  # pyright: ignore[reportOptionalOperand]
        "indices": out.indices,
        "quantized": out.quantized.detach(),
    }


def batch(mask: Tensor | None, part: slice = slice(None)) -> tuple[Tensor, Tensor | None, int]:
    valid = ROWS if mask is None else int(mask.sum())
    return latents(ROWS)[part], None if mask is None else mask[part], valid


def steps(part: slice, world: int) -> dict[str, Any]:
    """Every case, mask and gradient form on one's part of the batch."""
    results = {}
    for case, options in CASES.items():
        for name, mask in MASKS.items():
            for nats in (True, False):
                x, own, total = batch(mask, part)
                results[case, name, nats] = step(
                    _started(options), x, own, nats=nats, total=total, world=world
                )
    return results


def _started(options: dict[str, Any]) -> GaussianMixtureVQ:
    """Equal on every rank: loaded, not started, since a start pools the latents of all ranks."""
    built = layer(started=False, **options)
    with torch.no_grad():
        built.codebook.normal_()
        built.mean.fill_(0.3)
        built.scale.fill_(0.9)
    move(built)
    built.load_state_dict(built.state_dict())
    return built


#: Compositions of a few small mixtures.
COMPOSITIONS: dict[str, Callable[[], torch.nn.Module]] = {
    "residual": lambda: ResidualGMVQ(D, 4, 2, support=None),
    "residual, shared": lambda: ResidualGMVQ(D, 4, 2, shared_codebook=True, support=None),
    "grouped": lambda: GroupedGMVQ(D, 4, groups=D, support=None),
    "grouped, shared": lambda: GroupedGMVQ(D, 4, groups=D, shared_codebook=True, support=None),
    "grouped residual": lambda: GroupedGMVQ(D, 4, groups=D, num_quantizers=2, support=None),
    "scales": lambda: PyramidGMVQ(D, 4, 2, support=None),
    "ragged": lambda: RaggedGMVQ(D, 4, 2, support=None),
}


def composition(name: str, part: slice, world: int) -> dict[str, Any]:
    """One step on one's own of six items of four positions, of which some are masked, and the state that it leaves."""
    torch.manual_seed(1)
    built = COMPOSITIONS[name]().double()
    # Each item of ragged codes has a lambda of its own.
    spending = {"distortion": torch.linspace(0.0, 2.0, 6)[part]} if name == "ragged" else {}
    for level, parameter in enumerate(p for p in built.parameters() if p.ndim == 2):
        parameter.data.copy_(latents(*parameter.shape, seed=level))
    for mixture in [part for part in built.modules() if isinstance(part, GaussianMixtureVQ)]:
        mixture.scale.data.fill_(0.9)
        mixture.log_precision.data.fill_(0.5)
    built.load_state_dict(built.state_dict())
    mask = torch.arange(ROWS).view(6, 4) > 4
    x = latents(ROWS).view(6, 4, D)[part].requires_grad_()
    out = built(x, mask[part], **spending)
    (out.quantized.square().sum() * world / int(mask.sum()) + out.nats).backward()
    grads = {name: p.grad for name, p in built.named_parameters() if p.grad is not None}
    # A rank's own.
    terms = {name: value for name, value in out.terms.items() if not name.startswith("error/")}
    return {
        "nats": out.nats.detach(),
        "terms": terms,
        "grads": grads,
        "latents": x.grad / world,  # pyright: ignore[reportOptionalOperand]
        "state": copy.deepcopy(built.state_dict()),
    }


def starts(part: slice) -> dict[str, dict[str, Tensor]]:
    """State after a lazy, a masked lazy and an explicit start, with other numbers of codes, and with given ones."""
    results = {}
    for name, mask in {"lazy": None, "masked": MASK, "one rank empty": EMPTY_SECOND}.items():
        built, (x, own, _) = layer(started=False), batch(mask, part)
        built(x, own)
        results[name] = copy.deepcopy(built.state_dict())
    built = layer(started=False)
    built.init_codebook(latents(ROWS)[part], seed=3)
    results["explicit"] = copy.deepcopy(built.state_dict())
    for size in (2, 6):
        resized = resize_codebook(built, latents(ROWS, seed=5)[part], size)
        results[f"resized to {size}"] = copy.deepcopy(resized.layer.state_dict())
    built.set_codebook(latents(len(built.codebook), seed=6), latents=latents(ROWS, seed=5)[part], frozen=True)
    results["given"] = copy.deepcopy(built.state_dict())
    return results


def several(part: slice, world: int) -> dict[str, dict[str, Tensor]]:
    """State after some steps, each of which applies what the one before taught; gradients averaged over ranks."""
    results = {}
    for case, options in CASES.items():
        built = _started(options)
        built.births = False  # candidates are drawn at random
        for mask in (None, MASK, EMPTY_SECOND, None):
            x, own, total = batch(mask, part)
            built.zero_grad()
            step(built, x, own, nats=True, total=total, world=world)
            for parameter in filter(lambda p: p.grad is not None, built.parameters()):
                grad: Tensor = parameter.grad  # pyright: ignore[reportAssignmentType]
                if world > 1:
                    dist.all_reduce(grad)
                parameter.data.sub_(grad / world, alpha=0.05)
        results[case] = copy.deepcopy(built.state_dict())
    return results


def wrapped(part: slice, world: int) -> dict[str, Any]:
    """DistributedDataParallel itself, from the lazy start on: its buckets and our collectives in one backward."""
    built: torch.nn.Module = layer(started=False, mixture_weights="learned")
    if world > 1:
        built = DistributedDataParallel(built)
    x, own, total = batch(MASK, part)
    step(built, x, own, nats=False, total=total, world=world)
    built.zero_grad()
    return step(built, x, own, nats=False, total=total, world=world)


def waiting(part: slice, world: int) -> dict[str, Tensor]:
    """Gradient at the latents of a second batch before the start, far from the first one, by its mask."""
    grads = {}
    for name, mask in MASKS.items():
        built = layer(started=False, start_after=9)
        x, own, total = batch(mask, part)
        step(built, x, own, nats=False, total=total, world=world)
        grads[name] = step(built, 9.0 * x, own, nats=False, total=total, world=world)["latents"]
    return grads


def work(rank: int, folder: str) -> None:
    """Run everything on this rank's rows."""
    torch.set_num_threads(1)
    path = Path(folder)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{path / 'rendezvous'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=120),
    )
    results: dict[str, Any] = {"starts": starts(SPLIT[rank]), "steps": steps(SPLIT[rank], WORLD)}
    results["several"] = several(SPLIT[rank], WORLD)
    results["waiting"] = waiting(SPLIT[rank], WORLD)
    results["wrapped"] = wrapped(SPLIT[rank], WORLD)
    results |= {name: composition(name, ITEMS[rank], WORLD) for name in COMPOSITIONS}
    if rank == 0:  # alone: any collective would wait for rank 1 until the timeout
        built = _started({}).eval()
        x = latents(ROWS).requires_grad_()
        out = built(x)
        (out.quantized.square().mean() + out.loss).backward()
        results["alone"] = {"indices": out.indices, "encoded": built.encode(x), "terms": out.terms}
    torch.save(results, path / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()

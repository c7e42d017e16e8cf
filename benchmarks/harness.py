"""One training run of one quantizer on one data set: the same network, data, order, steps and optimizer for all.

A run is described by a JSON-able dictionary and returns one; ``run_all`` keeps every result in a file as it comes,
skips those already there, and runs several at a time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmvq import GaussianLikelihood, GaussianMixtureVQ, negative_evidence
from gmvq.bench.results import cpu_name, write
from gmvq.data import make_loader, open_images
from gmvq.functional.divergences import perplexity
from gmvq.models import build_networks
from gmvq.quantizers.config import part_from_dict

Run = dict[str, Any]


class EmaVQ(nn.Module):
    """vector-quantize-pytorch's ``VectorQuantize`` with EMA codebook, k-means start and dead-code replacement."""

    def __init__(self, dim: int, codebook_size: int) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.layer = VectorQuantize(
            dim=dim, codebook_size=codebook_size, kmeans_init=True, threshold_ema_dead_code=2
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = latents.reshape(latents.shape[0], -1, latents.shape[-1])
        quantized, indices, loss = self.layer(flat)[:3]
        return quantized.view(latents.shape), indices.view(latents.shape[:-1]), loss.sum()


def build_quantizer(run: Run) -> nn.Module:
    """The quantizer a run names: ``ema-vq``, or ``gm-vq`` with the parts in ``run["parts"]``."""
    if run["method"] == "ema-vq":
        return EmaVQ(run["dim"], run["codebook_size"])
    parts = {name: part_from_dict(value) for name, value in run.get("parts", {}).items()}
    return GaussianMixtureVQ(run["dim"], run["codebook_size"], **parts)


def train(run: Run) -> Run:
    """Train as ``run`` says and measure on its validation and test split, or on ``run["splits"]`` alone.

    ``run`` needs method, data, channels, size, network, downsample, dim, codebook_size, steps, batch_size, lr, seed;
    optional: parts, mixture_rate (factor on the mixture's rate), advance (False: schedules stay idle), dense_until
    (fraction of training during which the posterior keeps all codes), loss
    (``"evidence"``: nats; ``"drop-in"``: MSE + out.loss; ``"naive"``: MSE + out.nats; for any method ``"relative"``:
    (MSE + its loss) / MSE, the gradient of a log).
    """
    torch.manual_seed(run["seed"])
    torch.set_flush_denormal(True)
    encoder, decoder = build_networks(
        run["network"], channels=run["channels"], dim=run["dim"], downsample=run["downsample"]
    )
    for module in (encoder, decoder):
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    quantizer = build_quantizer(run)
    networks = [*encoder.parameters(), *decoder.parameters()]
    groups: list[dict[str, Any]] = [{"params": networks, "lr": run["lr"]}]
    mixture = quantizer if isinstance(quantizer, GaussianMixtureVQ) else None
    if mixture is not None:
        groups += mixture.parameter_groups(run["lr"] * run.get("mixture_rate", 1.0))
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    steps = run["steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * i / steps))),
    )
    likelihood = GaussianLikelihood()
    batches = _endless(
        make_loader(_open(run, "train"), batch_size=run["batch_size"], shuffle=True, seed=run["seed"])
    )
    started = time.perf_counter()
    for step in range(steps):
        x = next(batches).to(memory_format=torch.channels_last)
        if mixture is not None and run.get("advance", True):
            mixture.set_progress(step / steps)
        if mixture is not None and run.get("dense_until"):
            mixture.support = None if step < run["dense_until"] * steps else run["parts"]["support"]
        with torch.autocast("cpu", torch.bfloat16):
            latents = encoder(x).float().movedim(1, -1)
        out = quantizer(latents)
        quantized, _, extra = out
        with torch.autocast("cpu", torch.bfloat16):
            reconstruction = decoder(quantized.movedim(-1, 1)).float()
        mse = (reconstruction - x).square().mean()
        kind = run.get("loss", "evidence")
        if mixture is not None and kind == "evidence":
            loss = negative_evidence(likelihood, reconstruction, x, out) / x[0].numel()
        elif mixture is not None and kind == "naive":
            loss = mse + out.nats
        elif kind == "relative":
            loss = (mse + extra) / mse.detach()
        else:
            loss = mse + extra
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - started
    result: Run = {}
    for split in run.get("splits", ("validation", "test")):
        figures = _measure(encoder, quantizer, decoder, _open(run, split), run["codebook_size"])
        result |= {f"{split}_{name}": value for name, value in figures.items()}
    if mixture is not None:
        result["quantizer"] = mixture.to_config()
    return {**result, "seconds": seconds}


def _open(run: Run, split: str) -> Any:
    return open_images(
        run["data"], split=split, size=run["size"], channels=run["channels"], flip=run["channels"] == 3
    )


def _endless(loader: Iterable[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from loader


@torch.no_grad()
def _measure(
    encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module, data: Any, codebook_size: int
) -> dict[str, float]:
    """MSE over all values, and perplexity and usage of the codebook over the whole split, in float32."""
    for module in (encoder, quantizer, decoder):
        module.eval()
    squared, values = 0.0, 0
    counts = torch.zeros(codebook_size)
    for x in make_loader(data, batch_size=256, shuffle=False):
        quantized, indices, _ = quantizer(encoder(x).movedim(1, -1))
        reconstruction = decoder(quantized.movedim(-1, 1)).clamp(0, 1)
        squared += float((reconstruction - x).double().square().sum())
        values += x.numel()
        counts += torch.bincount(indices.flatten(), minlength=codebook_size)
    return {
        "mse": squared / values,
        "perplexity": float(perplexity(counts)),
        "usage": float((counts > 0).float().mean()),
    }


def _guarded(run: Run) -> Run:
    torch.set_num_threads(1)
    try:
        return {**run, **train(run)}
    except Exception as error:  # one failing row must not take the others down; the row says what happened
        return {**run, "error": f"{type(error).__name__}: {error}"}


def run_all(
    runs: list[Run],
    path: Path,
    *,
    workers: int = 2,
    report: bool = False,
    train_one: Callable[[Run], Run] = _guarded,
) -> list[Run]:
    """Run what ``path`` does not hold yet, ``workers`` at a time, writing each result as it comes.

    Returns:
        The results of ``runs``, in their order; with ``report``, of those that ``path`` holds.
    """
    record = json.loads(path.read_text()) if path.exists() else {"environment": environment(), "runs": []}
    known = {_key(result, runs): result for result in record["runs"] if _is_current(result)}
    missing = [] if report else [run for run in runs if _name(run) not in known]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(train_one, run): run for run in missing}
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            result = future.result()
            known[_name(futures[future])] = result
            record["runs"] = list(known.values())
            write(path, record)
            print(f"[{done}/{len(missing)}] {_line(result)}", flush=True)
    return [known[_name(run)] for run in runs if _name(run) in known]


def _is_current(result: Run) -> bool:
    """Whether a kept result ended well, with the quantizer that its description builds today."""
    if "error" in result:
        return False
    return "quantizer" not in result or result["quantizer"] == build_quantizer(result).to_config()  # pyright: ignore


def _line(result: Run) -> str:
    """A result as one line of progress."""
    name = f"{result['name']} seed {result['seed']}"
    if "error" in result:
        return f"{name}: {result['error']}"
    mse, codes, seconds = (result[k] for k in ("validation_mse", "validation_perplexity", "seconds"))
    return f"{name}: validation MSE {mse * 1e3:.3f}e-3, perplexity {codes:.0f}, {seconds:.0f} s"


def _name(run: Run) -> str:
    return json.dumps(run, sort_keys=True)


def _key(result: Run, runs: list[Run]) -> str:
    fields = set().union(*(run.keys() for run in runs)) if runs else set()
    return _name({k: v for k, v in result.items() if k in fields})


def environment() -> dict[str, str]:
    """Device and versions, for the head of a results file."""
    return {
        "device": f"{cpu_name()}, {os.cpu_count()} cores, one thread per run",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vector_quantize_pytorch": importlib.metadata.version("vector-quantize-pytorch"),
        "gmvq": importlib.metadata.version("gmvq"),
        "precision": "bf16 autocast in the networks, float32 in the quantizer",
    }


def spread(values: list[float]) -> str:
    """Mean and half-width of the 95 % t-interval, as text; the value alone for one seed."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 1.96)
    return f"{statistics.mean(values):.3f} ± {t * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def arguments(description: str | None, default: str, *, seeds: int = 3) -> argparse.Namespace:
    """The command line that the studies share: where results go and how many runs at a time."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path(default), help="results file, resumed if it exists")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds")
    parser.add_argument("--report", action="store_true", help="print the table of what there is, run nothing")
    return parser.parse_args()

"""Does the adaptive variance know where GM-VQ errs, and which images are new to it? Trained anew for each seed.

    OMP_NUM_THREADS=1 gmvq study uncertainty --json bench/results/uncertainty.json

GM-VQ as in ``gmvq compare`` (the runs of fashion_mnist-k256 and photos32-k256, with the learning rate chosen there):
Fashion-MNIST against enlarged digits, photographs against emoji. Beside it GM-VQ in 16 dimensions, as its rivals are,
and the best of them, by the distance of its latents to their codewords. The likelihood's scale is that of images of the
train split. About 20 s a run on one core; what the file holds already is not made again.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gmvq.data import open_images
from gmvq.evaluation.batches import evaluating, image_batches
from gmvq.objectives import GaussianLikelihood

from ..comparison.train import train_model
from ..results import environment
from ..uncertainty.digits import Digits
from ..uncertainty.measure import measure_uncertainty
from ..uncertainty.scores import image_scores
from .tuned import Kept, tuned_run

KIND = "gmvq uncertainty"


@dataclass(frozen=True)
class Pair:
    """A setting of a suite, and the images that are new to its models."""

    suite: str
    setting: str
    other: str


PAIRS = (
    Pair("fashion_mnist", "fashion_mnist-k256", "digits"),
    Pair("photos32", "photos32-k256", "emoji"),
)
METHODS = ("gm-vq", "gm-vq, D = 16", "vq-ema-replace, relative")


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    options = _parser().parse_args(list(argv))
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("images", "resamples", "steps")}
    head = {
        "kind": KIND,
        "command": shlex.join(["gmvq", "study", "uncertainty", *argv]),
        "environment": environment(torch.device("cpu")),
        "settings": settings,
    }
    kept = Kept(Path(options.json), head)
    for seed in options.seeds:
        for pair in PAIRS:
            for method in options.methods:
                if kept.has(setting=pair.setting, method=method, seed=seed):
                    continue
                record = measure(pair, method, seed, options)
                kept.add(record)
                local, auroc = (record["uncertainty"][k]["log_variance"]["value"] for k in ("local", "auroc"))
                seconds = record["seconds"]
                print(
                    f"{pair.setting} {method} seed {seed}: rank {local:.3f}, AUROC {auroc:.3f}, {seconds:.0f} s"
                )
    kept.save()
    return 0


def measure(pair: Pair, method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one model and measure it."""
    started = time.perf_counter()
    run = tuned_run(pair.suite, pair.setting, method, seed, options.steps)
    model = train_model(run)
    shape = {"size": run["size"], "channels": run["channels"]}
    likelihood = GaussianLikelihood()
    train = open_images(run["data"], split="train", augment=False, **shape)
    with evaluating(model):
        x = torch.cat(list(image_batches(train, batch_size=256, device=torch.device("cpu"), limit=2048)))
        likelihood.observe(torch.cat([model(part).reconstruction for part in x.split(256)]), x, momentum=0.0)
    test = open_images(run["data"], split="test", **shape)
    if pair.other == "digits":
        other: Any = Digits(**shape)
    else:
        other = open_images(pair.other, split="test", **shape)
    scored = {"likelihood": likelihood, "batch_size": 256, "limit": options.images, "seed": seed}
    inside, outside = image_scores(model, test, **scored), image_scores(model, other, **scored)
    found = measure_uncertainty(inside, outside, resamples=options.resamples, seed=seed)
    return {
        "setting": pair.setting,
        "other": pair.other,
        "method": method,
        "seed": seed,
        "run": run,
        "mse": float(inside.mse.mean()),
        "mse_other": float(outside.mse.mean()),
        "scale": float(likelihood.log_scale.exp()),
        "uncertainty": found.to_dict(),
        "seconds": time.perf_counter() - started,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Uncertainty of GM-VQ against its errors and other images.")
    parser.add_argument("--json", metavar="FILE", required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", type=int, default=2000, help="of either set, at most")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--steps", type=int, help="of training, in place of the suite's, to try this out")
    return parser

"""How much of the class of a picture survives the bottleneck: GM-VQ beside its best rivals, at equal rate.

    OMP_NUM_THREADS=1 gmvq study bottleneck --json bench/results/bottleneck.json

The runs of fashion_mnist-k256 of ``gmvq compare``, with the options chosen there: one network, 400 steps, K = 256 and
P = 49 positions for all, so P log2 K = 392 bits an image. Linear probes and neighbours on the labels of Fashion-MNIST
(``probe``), fitted to images of the train split and tested on the first of the test split; and rFID by
the packaged extractor. What the file holds already is not made again, so that it can be made in parts.
"""

from __future__ import annotations

import argparse
import functools
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gmvq.data import ImageDataset, open_images
from gmvq.evaluation import CodebookMetrics, generation_metrics
from gmvq.evaluation.batches import image_batches
from gmvq.evaluation.features import EXTRACTOR, EfficientNetLite
from gmvq.evaluation.generation import features
from gmvq.models import VQAutoencoder

from ..comparison.train import train_model
from ..results import environment
from .probe import encode_labelled, probe, probe_pixels
from .tuned import Kept, tuned_run

KIND = "gmvq bottleneck"
SUITE, SETTING = "fashion_mnist", "fashion_mnist-k256"
METHODS = ("gm-vq", "gm-vq, D = 16", "vq-ema-replace, relative", "cvq", "vq-ema-replace")
PIXELS = "pixels"


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    options = _parser().parse_args(list(argv))
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("train", "test", "fid", "resamples", "steps")}
    head = {
        "kind": KIND,
        "command": shlex.join(["gmvq", "study", "bottleneck", *argv]),
        "environment": environment(torch.device("cpu")),
        "settings": settings,
    }
    kept = Kept(Path(options.json), head)
    for seed in options.seeds:
        for method in options.methods:
            if not kept.has(method=method, seed=seed):
                record = measure(method, seed, options, pixels=not kept.has(method=PIXELS, seed=-1))
                pixels = record.pop("pixels", None)
                if pixels is not None:
                    kept.add({"method": PIXELS, "seed": -1, "probe": pixels})
                kept.add(record)
                linear = record["probe"]["linear_latents"]
                print(f"{method} seed {seed}: linear on latents {linear:.3f}, {record['seconds']:.0f} s")
    kept.save()
    return 0


def measure(method: str, seed: int, options: argparse.Namespace, *, pixels: bool) -> dict[str, Any]:
    """Train one model and measure it; with ``pixels`` the images themselves, too."""
    started = time.perf_counter()
    run = tuned_run(SUITE, SETTING, method, seed, options.steps)
    model = train_model(run)
    shape = {"size": run["size"], "channels": run["channels"], "augment": False}
    sets = {name: open_images(run["data"], split=name, **shape) for name in ("train", "test")}
    train = encode_labelled(model, sets["train"], limit=options.train)
    test = encode_labelled(model, sets["test"], limit=options.test)
    codes = CodebookMetrics(run["codebook_size"])
    codes.update(test.indices)
    positions = test.indices.shape[1]
    entropy = codes.compute()["code_entropy"]
    return {
        "method": method,
        "seed": seed,
        "run": run,
        "features": train.latents.shape[1],
        "bits": positions * math.log2(run["codebook_size"]),
        "code_entropy": entropy,
        "bits_entropy": positions * entropy / math.log(2),
        "probe": asdict(probe(train, test, run["codebook_size"])),
        "rfid": _rfid(model, sets["test"], run["data"], options) if seed in options.fid_seeds else None,
        "seconds": time.perf_counter() - started,
        **({"pixels": probe_pixels(train, test)} if pixels else {}),
    }


def _rfid(
    model: VQAutoencoder, images: ImageDataset, data: str, options: argparse.Namespace
) -> dict[str, Any]:
    batches = image_batches(images, batch_size=256, device=torch.device("cpu"), limit=options.fid)
    copies = torch.cat([model.reconstruct(x) for x in batches])
    return generation_metrics(
        _originals(data, options.fid),
        features(copies, EfficientNetLite(), 256),
        extractor_name=EXTRACTOR,
        resamples=options.resamples,
        paired=True,
    ).to_dict()


@functools.cache
def _originals(data: str, limit: int) -> torch.Tensor:
    """Features of the images themselves, the same for every run."""
    images = open_images(data, split="test", size=28, channels=1)
    return features(images, EfficientNetLite(), 256, limit=limit)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Probes on codes and latents.")
    parser.add_argument("--json", metavar="FILE", required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=10000, help="images that probes are fitted to")
    parser.add_argument("--test", type=int, default=5000, help="images that they are tested on")
    parser.add_argument("--fid", type=int, default=2000, help="images of rFID")
    parser.add_argument("--fid_seeds", type=int, nargs="*", default=[0], help="seeds that get it")
    parser.add_argument("--resamples", type=int, default=20, help="half-samples behind rFID's interval")
    parser.add_argument("--steps", type=int, help="of training, in place of the suite's, to try this out")
    return parser

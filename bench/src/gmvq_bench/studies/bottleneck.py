"""How much of the class of a picture survives the bottleneck: GM-VQ beside its best rivals, at equal rate.

    OMP_NUM_THREADS=1 gmvq study bottleneck

The runs of fashion_mnist-k256 of ``gmvq compare``, with the options chosen there: one network, 400 steps, K = 256 and
P = 49 positions for all, so P log2 K = 392 bits an image. Linear probes and neighbours on the labels of Fashion-MNIST
(``probe``), fitted to images of the train split and tested on the first of the test split; and rFID by the packaged
extractor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from gmvq.evaluation import CodebookMetrics, generation_metrics
from gmvq.evaluation.batches import image_batches
from gmvq.evaluation.extractors import EXTRACTOR, EfficientNetLite
from gmvq.evaluation.generation import features

from ..comparison.train import train_model
from .probe import encode_labelled, probe, probe_pixels
from .records import images_of, make_records, study_parser, tuned_run

SUITE, SETTING = "fashion_mnist", "fashion_mnist-k256"
METHODS = ("gm-vq", "gm-vq, D = 16", "vq-ema-replace, relative", "cvq", "vq-ema-replace")
PIXELS = "pixels"


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("bottleneck", "Probes on codes and latents.", METHODS, range(3))
    parser.add_argument("--train", type=int, default=10000, help="images that probes are fitted to")
    parser.add_argument("--test", type=int, default=5000, help="images that they are tested on")
    parser.add_argument("--fid", type=int, default=2000, help="images of rFID")
    parser.add_argument("--fid_seeds", type=int, nargs="*", default=[0], help="seeds that get it")
    parser.add_argument("--resamples", type=int, default=20, help="half-samples behind rFID's interval")
    options = parser.parse_args(list(argv))
    cells = [{"method": PIXELS, "seed": -1}]
    cells += [{"method": m, "seed": s} for s, m in itertools.product(options.seeds, options.methods)]
    settings = ("train", "test", "fid", "resamples", "steps")
    return make_records("bottleneck", argv, options, settings, cells, measure)


def measure(*, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one model and measure it; for the pixels any model does."""
    pixels = method == PIXELS
    run = tuned_run(SUITE, SETTING, METHODS[0] if pixels else method, max(seed, 0), options.steps)
    model = train_model(run)
    images = images_of(run, "test")
    train = encode_labelled(model, images_of(run, "train"), limit=options.train)
    test = encode_labelled(model, images, limit=options.test)
    if pixels:
        return {"probe": probe_pixels(train, test)}
    codes = CodebookMetrics(run["codebook_size"])
    codes.update(test.indices)
    positions, entropy = test.indices.shape[1], codes.compute()["code_entropy"]
    return {
        "run": run,
        "features": train.latents.shape[1],
        "bits": positions * math.log2(run["codebook_size"]),
        "code_entropy": entropy,
        "bits_entropy": positions * entropy / math.log(2),
        "probe": asdict(probe(train, test, run["codebook_size"])),
        "rfid": _rfid(model, images, options) if seed in options.fid_seeds else None,
    }


def _rfid(model: Any, images: Any, options: Any) -> dict[str, Any]:
    batches = image_batches(images, batch_size=256, device=torch.device("cpu"), limit=options.fid)
    copies = torch.cat([model.reconstruct(x) for x in batches])
    return generation_metrics(
        features(images, EfficientNetLite(), 256, limit=options.fid),
        features(copies, EfficientNetLite(), 256),
        extractor_name=EXTRACTOR,
        resamples=options.resamples,
        paired=True,
    ).to_dict()

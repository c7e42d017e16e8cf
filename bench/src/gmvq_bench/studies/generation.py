"""Samples from GM-VQ's tokens and from its best rival's: the same networks, prior and budget, with seeds.

    OMP_NUM_THREADS=1 gmvq study generation --json bench/results/generation.json

Tokenizers as in ``gmvq compare`` (fashion_mnist-k256, each with the rate and weights chosen there), a causal prior
without labels on the tokens of the training images, samples at temperature 1 against test images. GM-VQ also with an
estimator whose temperature ends at 0.1 (chosen by the KID of validation images, docs/experiments.md); there also z
drawn around the codewords (``noise``), codes from the mixture without a prior (``floor``), and a masked prior.

What the file holds is not made again; ``--methods`` and ``--seeds`` divide the work among processes with a file each,
``--merge`` joins the files.
"""

from __future__ import annotations

import argparse
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmvq.data import open_images
from gmvq.evaluation.generation import features, generation_metrics
from gmvq.evaluation.inception import extractor_name, open_extractor
from gmvq.files import write_json
from gmvq.prior import decode, fit_prior, mixture_indices

from ..comparison.suite import Run
from ..comparison.train import train_model
from ..rate_distortion.points import encode
from ..results import environment, read
from .tuned import Kept, tuned_run

KIND = "gmvq generation"
SETTING = ("fashion_mnist", "fashion_mnist-k256")
SHARP, MASKED = "gm-vq, temperature to 0.1", "gm-vq, temperature to 0.1, masked prior"
METHODS = ("gm-vq", SHARP, MASKED, "cvq")
_SHARP = {"type": "GumbelSoftmax", "temperature": {"type": "Cosine", "start": 1.0, "end": 0.1, "idle": 0.5}}
NOISES = (0.25, 0.5, 1.0)


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    options = _parser().parse_args(list(argv))
    if options.merge:
        return _merge(Path(options.json), [Path(name) for name in options.merge])
    torch.set_num_threads(options.threads)
    head = {
        "kind": KIND,
        "command": shlex.join(["gmvq", "study", "generation", *argv]),
        "environment": environment(torch.device("cpu")),
        "settings": {
            name: getattr(options, name) for name in ("images", "resamples", "prior_steps", "prior_size")
        },
    }
    kept = Kept(Path(options.json), head)
    extractor, real = open_extractor(), None
    for seed in options.seeds:
        for method in options.methods:
            if kept.has(method=method, seed=seed):
                continue
            if real is None:
                real = features(_spread(options.images), extractor)
            started = time.perf_counter()
            record = measure(method, seed, options, real, extractor)
            kept.add({"method": method, "seed": seed, **record})
            fid = record["samples"]["prior"]["fid"]["value"]
            print(f"{method} seed {seed}: FID {fid:.2f}, {time.perf_counter() - started:.0f} s", flush=True)
    kept.save()
    return 0


def measure(
    method: str, seed: int, options: argparse.Namespace, real: Tensor, extractor: torch.nn.Module
) -> dict[str, Any]:
    """Train tokenizer and prior; figures of both, and of every kind of sample against the test images."""
    ours = method.startswith("gm-vq")
    run = tuned_run(*SETTING, "gm-vq" if ours else method, seed)
    if method in (SHARP, MASKED):
        run["options"] = {**run["options"], "estimator": _SHARP}
    model: Any = train_model(run)
    tokens, held = (encode(model, _open(run, split)) for split in ("train", "test"))
    prior = fit_prior(
        tokens,
        run["codebook_size"],
        steps=options.prior_steps,
        size=options.prior_size,
        seed=seed,
        accelerator="cpu",
        kind="masked" if method == MASKED else "causal",
    )
    nats = torch.cat([prior.nats(part) for part in held.split(256)]).double().mean()
    p = torch.bincount(held.flatten(), minlength=run["codebook_size"]).double() / held.numel()
    entropy = float(-torch.special.xlogy(p, p).sum()) * held[0].numel() / math.log(2)
    indices = prior.sample(options.images, seed=seed)
    kinds = {"prior": decode(model, indices)}
    if method != MASKED:
        kinds["reconstructions"] = decode(model, _some(held, options.images))
    if method == SHARP:
        for noise in NOISES:
            kinds[f"prior, noise {noise:g}"] = decode(model, indices, noise=noise, seed=seed)
        floor = mixture_indices(model, options.images, tuple(held.shape[1:]), seed=seed)
        kinds["floor"] = decode(model, floor)
    name = extractor_name(extractor)
    return {
        "bits_per_image": {"prior": float(nats) / math.log(2), "entropy": entropy},
        "samples": {
            kind: generation_metrics(
                real, features(images, extractor), extractor_name=name, resamples=options.resamples, seed=seed
            ).to_dict()
            for kind, images in kinds.items()
        },
    }


def _open(run: Run, split: str) -> Any:
    return open_images(run["data"], split=split, size=run["size"], channels=run["channels"], augment=False)


def _spread(count: int) -> Tensor:
    test = _open(tuned_run(*SETTING, METHODS[0], 0), "test")
    return _some(torch.stack([test[i] for i in range(len(test))]), count)


def _some(values: Tensor, count: int) -> Tensor:
    """``count`` rows spread evenly."""
    return values[torch.arange(count) * len(values) // count]


def _merge(target: Path, parts: list[Path]) -> int:
    """Join the records of files with the same settings."""
    data = [read(part, KIND) for part in parts]
    if any(one["settings"] != data[0]["settings"] for one in data):
        raise ValueError("the files are of different settings")
    records = sorted(
        (r for one in data for r in one["records"]), key=lambda r: (METHODS.index(r["method"]), r["seed"])
    )
    commands = "; ".join(one["command"] for one in data)
    write_json(target, {**data[0], "command": commands, "records": records})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", default="bench/results/generation.json")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=5000, help="of each kind (default: 5000)")
    parser.add_argument("--resamples", type=int, default=12, help="behind each run's intervals (default: 12)")
    parser.add_argument("--prior_steps", type=int, default=600)
    parser.add_argument("--prior_size", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--merge", nargs="+", metavar="FILE", help="join these into --json; nothing is measured"
    )
    return parser

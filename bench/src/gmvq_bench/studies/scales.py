"""A pyramid of three scales beside a single scale and two residual levels, at equal rate.

Networks, data and order are those of GM-VQ's tuned runs of ``gmvq compare`` at K = 256; every method has the same grid
of learning rates, of which the validation split chooses. With P positions and L codes in a pyramid of K = 256, the
single scale has K = 256^(L/P) codes, and each of two residual levels the root of that: all spend L log2 256 bits on an
image. Beside the error: bits with the histograms of the codes, and under a causal prior over them (``fit_prior``),
which is trained on images of the train split and measured on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmvq.evaluation import evaluate
from gmvq.prior import TokenSpec, fit_prior
from gmvq.quantizers.blocks import scale_places

from ..comparison.train import train_model
from ..rate_distortion.points import bits_of_prior, encode
from .records import bits_of_histogram, cells_of, images_of, make_records, study_parser, tuned_run

#: data -> suite and setting of the tuned run.
DATA = {"photos": ("photos32", "photos32-k256"), "fashion_mnist": ("fashion_mnist", "fashion_mnist-k256")}
CODES, SCALES = 256, 3
RATES = (0.006, 0.012, 0.024)
METHODS = ("single scale", "two levels", "pyramid, shared", "pyramid")


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("scales", "A pyramid beside a single scale, at equal rate.", METHODS, range(3))
    parser.add_argument("--data", nargs="+", default=list(DATA), help="default: all")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates")
    parser.add_argument("--limit", type=int, default=2000, help="images of the validation and the test split")
    parser.add_argument("--prior_images", type=int, default=4000, help="images that priors are fitted to")
    parser.add_argument("--prior_steps", type=int, default=300, help="of a prior; 0: none")
    parser.add_argument("--prior_seeds", type=int, nargs="*", default=[0], help="seeds that get one")
    options = parser.parse_args(list(argv))
    cells = cells_of(seed=options.seeds, data=options.data, method=options.methods, lr=options.rates)
    settings = ("steps", "limit", "prior_images", "prior_steps")
    return make_records("scales", argv, options, settings, cells, measure)


def described(data: str, method: str, seed: int, steps: int | None) -> dict[str, Any]:
    """The run of a method: the tuned one with another quantizer of the same rate."""
    base = tuned_run(*DATA[data], "gm-vq", seed, steps)
    sides = [base["size"] // base["downsample"]] * 2
    codes = sum(len(places) for places in scale_places(sides, SCALES))
    single = CODES ** (codes / math.prod(sides))
    kinds: dict[str, dict[str, Any]] = {
        "single scale": {"codebook_size": round(single)},
        "two levels": {
            "quantizer": "gm-vq, levels",
            "codebook_size": round(math.sqrt(single)),
            "options": {"num_quantizers": 2},
        },
        "pyramid, shared": {"quantizer": "gm-vq, pyramid", "options": {"scales": SCALES}},
        "pyramid": {"quantizer": "gm-vq, pyramid", "options": {"scales": SCALES, "shared_codebook": False}},
    }
    return base | {"codebook_size": CODES} | kinds[method]


def measure(*, data: str, method: str, seed: int, lr: float, options: Any) -> dict[str, Any]:
    """Train one model, and a prior on its tokens; the figures on the test split."""
    run: dict[str, Any] = {**described(data, method, seed, options.steps), "lr": lr}
    model = train_model(run)
    images = images_of(run, "test")
    validation = evaluate(model, images_of(run, "validation"), limit=options.limit)
    figures = evaluate(model, images, limit=options.limit)
    test = encode(model, images, limit=options.limit)
    spec = _spec(model, test)
    codes = spec.codes(test)
    entropy = [
        bits_of_histogram(spec.codebook_size, codes[:, spec.levels_of == level])
        for level in range(spec.levels)
    ]
    record = {
        "run": run,
        "validation_mse": validation.mse,
        **{name: getattr(figures, name) for name in ("mse", "psnr", "ssim", "usage")},
        "bits": spec.length * math.log2(spec.codebook_size),
        "bits_entropy": sum(entropy),
        "bits_prior": None,
    }
    if options.prior_steps and seed in options.prior_seeds:
        train = encode(model, images_of(run, "train", augment=True), limit=options.prior_images)
        fitted = {"levels": spec.levels, "pyramid": spec.pyramid, "steps": options.prior_steps}
        prior = fit_prior(train, spec.codebook_size, **fitted, batch_size=32, seed=seed, accelerator="cpu")
        record["bits_prior"] = bits_of_prior(prior, test)
    return record


def _spec(model: Any, indices: Tensor) -> TokenSpec:
    quantizer = model.quantizer
    levels = getattr(quantizer, "index_shape", (1,))[0]
    pyramid = hasattr(quantizer, "codes_per_item")
    return TokenSpec(tuple(indices.shape[1:]), quantizer.codebook_size, levels, pyramid=pyramid)

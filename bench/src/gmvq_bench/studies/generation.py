"""Samples from GM-VQ's tokens and from those of its two best rivals: the same networks, prior and budget, with seeds.

Tokenizers as in ``gmvq compare`` (fashion_mnist-k256, each with the rate and weights chosen there), a causal prior
without labels on the tokens of the training images, samples at temperature 1 against test images. Of GM-VQ also z
drawn around the codewords (``noise``), codes from the mixture without a prior (``floor``), a masked prior, and the
tokens of 16 features, which its rivals have, in place of 4.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmvq.evaluation.extractors import extractor_name, open_extractor
from gmvq.evaluation.generation import features, generation_metrics
from gmvq.prior import decode, fit_prior, mixture_indices

from ..comparison.train import train_model
from ..rate_distortion.points import bits_of_prior, encode
from .records import bits_of_histogram, cells_of, images_of, make_records, study_parser, tuned_run

SETTING = ("fashion_mnist", "fashion_mnist-k256")
OURS, MASKED = "gm-vq", "gm-vq, masked prior"
METHODS = (OURS, MASKED, "gm-vq, D = 16", "vq-ema-replace, relative", "cvq")
NOISES = (0.25, 0.5, 1.0)


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("generation", "Samples from tokens, against test images.", METHODS, range(3))
    parser.add_argument("--images", type=int, default=5000, help="of each kind (default: 5000)")
    parser.add_argument("--resamples", type=int, default=12, help="behind each run's intervals (default: 12)")
    parser.add_argument("--prior_steps", type=int, default=600)
    parser.add_argument("--prior_size", default="tiny")
    options = parser.parse_args(list(argv))
    cells = cells_of(seed=options.seeds, method=options.methods)
    settings = ("images", "resamples", "prior_steps", "prior_size")
    return make_records("generation", argv, options, settings, cells, measure)


def measure(*, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train tokenizer and prior; figures of both, and of every kind of sample against the test images."""
    run = tuned_run(*SETTING, OURS if method == MASKED else method, seed, options.steps)
    model: Any = train_model(run)
    tokens, held = (encode(model, images_of(run, split)) for split in ("train", "test"))
    codes: int = run["codebook_size"]
    fitted = {"steps": options.prior_steps, "size": options.prior_size, "accelerator": "cpu"}
    kind = "masked" if method == MASKED else "causal"
    prior = fit_prior(tokens, codes, **fitted, seed=seed, kind=kind)
    indices = prior.sample(options.images, seed=seed)
    kinds = {"prior": decode(model, indices)}
    if method != MASKED:
        kinds["reconstructions"] = decode(model, _some(held, options.images))
    if method == OURS:
        for noise in NOISES:
            kinds[f"prior, noise {noise:g}"] = decode(model, indices, noise=noise, seed=seed)
        floor = mixture_indices(model, options.images, tuple(held.shape[1:]), seed=seed)
        kinds["floor"] = decode(model, floor)
    extractor, real = _real(options.images)
    how = {"extractor_name": extractor_name(extractor), "resamples": options.resamples, "seed": seed}
    return {
        "bits_per_image": {
            "prior": bits_of_prior(prior, held),
            "entropy": bits_of_histogram(codes, held.flatten(1)),
        },
        "samples": {
            kind: generation_metrics(real, features(images.clamp(0, 1), extractor), **how).to_dict()
            for kind, images in kinds.items()
        },
    }


@functools.cache
def _real(count: int) -> tuple[torch.nn.Module, Tensor]:
    """The extractor, and its features of test images."""
    test = images_of(tuned_run(*SETTING, OURS, 0), "test")
    extractor = open_extractor()
    return extractor, features(_some(torch.stack([test[i] for i in range(len(test))]), count), extractor)


def _some(values: Tensor, count: int) -> Tensor:
    """``count`` rows spread evenly."""
    return values[torch.arange(count) * len(values) // count]

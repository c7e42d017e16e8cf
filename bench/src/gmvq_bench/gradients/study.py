r"""The study of gradient estimators: is the Gumbel-softmax gradient better where q(c|x) is sharp, and does ALBO help?

The network, small enough to enumerate all codes of an image: 8 x 8 RGB crops of the built-in photographs; encoder
Linear(192, 64), SiLU, Linear(64, P D); P = 2 positions of D = 8 features; ``GaussianMixtureVQ`` of K = 16 codes, hence
256 joint codes; decoder Linear(P D, 64), SiLU, Linear(64, 192). It is trained for 600 steps of 64 crops by Adam at
2e-3 on ``negative_evidence``, everything else at the library's defaults, with every objective of ``OBJECTIVES``, and
with q(c|x) on all codes and on the default support.

At checkpoints the gradient of E_q[-log p(x | mu_c)] with respect to the *encoder's parameters* is measured per image,
on tiles of photographs not trained on, in float64: exact, and the moments of an estimate from one sample
(``gradient_error``). A posterior on a support is measured against its own exact gradient. Errors are root mean squares
per image: absolute, in nats per unit of the parameters, and relative to the norm of the exact gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmvq.data import open_images
from gmvq.functional.schedules import Constant
from gmvq.objectives.likelihoods import GaussianLikelihood, negative_evidence
from gmvq.quantizers.parts import Objective

from .statistics import summarise
from .tokenizer import CODES, DIM, ESTIMATORS, POSITIONS, SIZE, GradientTokenizer, measure

OBJECTIVES: dict[str, Objective] = {
    "albo": Objective("albo"),
    "elbo": Objective("elbo"),
    "albo, beta = 1": Objective("albo", beta=Constant(1.0)),
    "elbo, beta = 1": Objective("elbo", beta=Constant(1.0)),
    "none": Objective("none"),
    "literal": Objective("literal", gamma=Constant(1.0), beta=Constant(1.0)),
}
SUPPORTS: dict[str, int | None] = {"all": None, "4": 4}
SAMPLES = 256  # draws of the noise per image, besides two for each joint code
BATCH, RATE = 64, 2e-3
TEMPERATURES = (1.0, 0.5, 0.3, 0.1)


def _train(
    objective: str, support: int | None, seed: int, steps: int, pool: Tensor, stops: Sequence[int]
) -> Iterator[tuple[int, GradientTokenizer]]:
    """The model at ``stops``, numbers of steps done (at least 1), on its way."""
    torch.manual_seed(seed)
    model, likelihood = GradientTokenizer(OBJECTIVES[objective], support), GaussianLikelihood()
    network = [*model.encoder.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam([{"params": network}, *model.quantizer.parameter_groups(RATE)], lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        images = pool[torch.randint(len(pool), (BATCH,), generator=generator)]
        model.quantizer.set_progress((step - 1) / steps)
        output = model.quantizer(model.encode(images))
        loss = negative_evidence(likelihood, model.decode(output.quantized), images.flatten(1), output)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step in stops:
            model.quantizer.set_progress(step / steps)
            model.quantizer.settle()
            yield step, model


def _images(split: str, count: int) -> Tensor:
    """Random crops of the training photographs, or tiles evenly spaced over all others."""
    data = open_images("photos", split=split, size=SIZE)
    stride = 1 if split == "train" else len(data) // count
    return torch.stack([data[(i * stride) % len(data), i] for i in range(count)])


def _checkpoint(
    model: GradientTokenizer, images: Tensor, step: int, support: str, seed: int
) -> dict[str, Any]:
    """H(q) and the Gumbel-softmax's errors in the ``CELLS`` of ``gradient_statistics``, as arrays over images."""
    temperature = float(model.quantizer.temperature)
    cells = {"layer": ("gumbel-softmax", temperature), "0.5": ("gumbel-softmax", 0.5)}
    options = {"samples": SAMPLES, "seed": seed, "support": SUPPORTS[support]}
    entropy, found = measure(model, images, list(cells.values()), **options)
    figures = {name: found[cell] for name, cell in cells.items()}
    figures["0.5, logits"] = measure(model, images, [cells["0.5"]], **options, of_logits=True)[1][
        cells["0.5"]
    ]
    with torch.no_grad():
        model.eval()
        error = model.decode(model.quantizer(model.encode(images)).quantized) - images.flatten(1)
        model.train()
    return {
        "step": step,
        "temperature": temperature,
        "mse": float(error.square().mean()),
        "entropy": entropy.numpy(),
        "cells": {
            name: {key: np.asarray(value) for key, value in values.items()}
            for name, values in figures.items()
        },
    }


def _grid(
    model: GradientTokenizer, images: Tensor, step: int, support: str, seed: int
) -> list[dict[str, Any]]:
    """Every estimator and temperature at one state; of a posterior on all codes, its truncation as well."""
    cells = [(n, t) for n in ESTIMATORS for t in TEMPERATURES if n != "reinmax" or t == 1.0]
    common = {"step": step, "trained on": support, "seed": seed}
    k = SUPPORTS[support]
    _, found = measure(model, images, cells, SAMPLES, seed, support=k)
    rows = [(cell, support, "own", values) for cell, values in found.items()]
    if k is None:
        soft = [cell for cell in cells if cell[0] == "gumbel-softmax"]
        _, found = measure(model, images, soft, SAMPLES, seed, support=SUPPORTS["4"], against_all_codes=True)
        rows += [(cell, "4", "all codes", values) for cell, values in found.items()]
    return [
        common
        | {"estimator": name, "temperature": temperature, "support": measured, "against": against}
        | {key: float(np.median(np.asarray(value))) for key, value in values.items()}
        for (name, temperature), measured, against, values in rows
    ]


def run_study(
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    steps: int = 600,
    checkpoints: int = 10,
    images: int = 32,
    objectives: Sequence[str] = tuple(OBJECTIVES),
    supports: Sequence[str] = tuple(SUPPORTS),
    quick: bool = False,
) -> dict[str, Any]:
    """Train and measure everything; the answer is JSON-able and depends on the arguments alone.

    Args:
        seeds: one run of every objective and support each.
        steps, checkpoints, images: length of training, number of measurements, evenly spaced in sqrt(step), and
            images in each.
        objectives, supports: names in ``OBJECTIVES`` and ``SUPPORTS``.
        quick: a few steps of one seed, to see that it works.

    Returns:
        ``settings``; ``runs``: curves; ``grid``: all estimators and temperatures at the end of training
        with the default objective; ``points``: a sample of (entropy, error) for the picture;
        ``correlations`` and ``comparisons`` of ``gradient_statistics.summarise``.
    """
    if quick:
        seeds, steps, checkpoints, images = seeds[:1], 20, 3, 8
    pool, held_out = _images("train", 8192), _images("test", images)
    stops = sorted({math.ceil(steps * (i / checkpoints) ** 2) for i in range(1, checkpoints + 1)})
    runs, grid = [], []
    for seed in seeds:
        for objective in objectives:
            for support in supports:
                run: dict[str, Any] = {"objective": objective, "support": support, "seed": seed}
                measured = []
                for step, model in _train(objective, SUPPORTS[support], seed, steps, pool, stops):
                    measured.append(_checkpoint(model, held_out, step, support, seed))
                    if objective == "albo" and step == steps:
                        grid += _grid(model, held_out, step, support, seed)
                runs.append(run | {"checkpoints": measured})
    return {
        "settings": {
            "seeds": list(seeds), "steps": steps, "checkpoints": stops, "images": images, "batch": BATCH,
            "learning_rate": RATE, "positions": POSITIONS, "dim": DIM, "codes": CODES, "size": SIZE,
        },
        **summarise(runs, grid),
    }  # fmt: skip

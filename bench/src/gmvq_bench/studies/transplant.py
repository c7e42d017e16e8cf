"""Codes in a trained autoencoder: its error without codes, with GM-VQ and with EMA VQ in the same place.

An autoencoder of photographs is trained without codes. Then its encoder stands still, both quantizers start by k-means
on the same latents, and train on mean squared error plus their own loss, with Adam at one constant rate: with the
decoder ``frozen``, ``adapted`` from the first step on, or ``later``, from step 100 on.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gmvq.data import open_images
from gmvq.models import VQAutoencoder, build_networks

from ..comparison.measure import measure_validation
from ..comparison.methods import build_quantizer
from .records import cells_of, make_records, study_parser

#: What ``build_quantizer`` needs. EMA VQ replaces codes of less than 2 latents a step; 0.1 was no better.
METHODS: dict[str, dict[str, Any]] = {
    "gm-vq": {"quantizer": "gm-vq", "options": {}},
    "ema vq": {"quantizer": "vq-ema-replace", "options": {"decay": 0.99}},
}
#: Steps after which a model is measured; and decoder -> the step at which it begins to learn.
POINTS = (0, 10, 100, 1000)
AFTER = {"frozen": POINTS[-1], "adapted": 0, "later": 100}
DIM = 4


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("transplant", "Codes in a trained autoencoder.", tuple(METHODS), range(3))
    parser.add_argument("--codes", type=int, default=256, help="number of codes (default: 256)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (default: 16)")
    parser.add_argument("--lr", type=float, default=1e-3, help="of codes and decoder (default: 0.001)")
    parser.set_defaults(steps=1500)
    options = parser.parse_args(list(argv))
    cells = cells_of(seed=options.seeds, method=options.methods, decoder=AFTER)
    return make_records("transplant", argv, options, ("steps", "codes", "batch", "lr"), cells, measure)


def measure(*, method: str, decoder: str, seed: int, options: Any) -> dict[str, Any]:
    """Put one quantizer into the autoencoder of this seed, and train it."""
    continuous = autoencoder(seed, options.steps, options.batch)
    encoder, decoder_net = copy.deepcopy(continuous["networks"])
    torch.manual_seed(seed)
    quantizer: Any = build_quantizer({**METHODS[method], "dim": DIM, "codebook_size": options.codes})
    model = VQAutoencoder(encoder.requires_grad_(False), quantizer, decoder_net)
    start(model, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    points = {0: measure_validation(model, images("test"))}
    for step, x in zip(range(POINTS[-1]), batches(seed + 1, options.batch), strict=False):
        if method == "gm-vq":
            quantizer.set_progress(step / POINTS[-1])
        out = model.train()(x)
        loss = (out.reconstruction - x).square().mean() + out.quantizer.loss
        optimizer.zero_grad()
        # With all of its parts frozen, a quantizer of moving averages has no gradient.
        if loss.requires_grad:
            loss.backward()
        if step < AFTER[decoder]:
            for parameter in model.decoder.parameters():
                parameter.grad = None
        optimizer.step()
        if step + 1 in POINTS:
            points[step + 1] = measure_validation(model, images("test"))
    return {"continuous": continuous["mse"], "points": points}


@torch.no_grad()
def start(model: Any, seed: int) -> None:
    """k-means on the same latents for all: of 128 images, 64 each."""
    latents = model._latents(next(batches(seed, 128))).flatten(0, -2)
    getattr(model.quantizer, "init_codebook", model.quantizer.train())(latents)


@functools.cache
def autoencoder(seed: int, steps: int, batch: int) -> dict[str, Any]:
    """Encoder and decoder trained without codes, and their error on the test images."""
    torch.manual_seed(seed)
    encoder, decoder = build_networks("tiny", dim=DIM)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.05)
    for _, x in zip(range(steps), batches(seed, batch), strict=False):
        loss = (decoder(encoder(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        parts = [(decoder(encoder(x)).clamp(0, 1) - x).square() for x in images("test").split(64)]
    return {"networks": (encoder, decoder), "mse": float(torch.cat(parts).mean())}


def batches(seed: int, size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield images("train")[torch.randint(len(images("train")), (size,), generator=generator)]


@functools.cache
def images(split: str) -> Tensor:
    found = open_images("photos", split=split, size=32, augment=False)
    return torch.stack([found[i] for i in range(len(found))])

"""Codes in a trained autoencoder: its error without codes, with GM-VQ and with EMA VQ in the same place.

    OMP_NUM_THREADS=1 gmvq study transplant

Photographs at 32 pixels, the tiny networks, latents of 4 features at 8 x 8 positions. An autoencoder is trained without
codes; then its encoder stands still, both quantizers start by k-means on the same latents of the training images, and
train on mean squared error plus their own loss, with Adam at one constant rate: with the decoder frozen, with a decoder
that learns from the first step on (``adapted``), and from step 100 on (``later``). Measured on all test images.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gmvq.data import open_images
from gmvq.evaluation import CodebookMetrics
from gmvq.models import VQAutoencoder, build_networks
from gmvq.models.interface import evaluating

from ..comparison.methods import build_quantizer
from .records import make_records, study_parser

#: Method -> its name among the rivals, with options. EMA VQ starts by k-means and replaces dead codes.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gm-vq": ("gm-vq", {}),
    "ema vq, decay 0.8": ("vq-ema-replace", {}),
    "ema vq, decay 0.99": ("vq-ema-replace", {"decay": 0.99}),
}
#: Steps after which a model is measured, and those before the decoder learns.
POINTS = (0, 10, 100, 1000)
AFTER = {"frozen": POINTS[-1], "adapted": 0, "later": 100}
DIM, LATENTS = 4, 8192


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("transplant", "Codes in a trained autoencoder.", tuple(METHODS), range(3))
    parser.add_argument("--codes", type=int, default=256, help="number of codes (default: 256)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (default: 16)")
    parser.add_argument("--lr", type=float, default=1e-3, help="of codes and decoder (default: 0.001)")
    parser.set_defaults(steps=2000)
    options = parser.parse_args(list(argv))
    cells = [
        {"method": method, "decoder": decoder, "seed": seed}
        for seed, method, decoder in itertools.product(options.seeds, options.methods, AFTER)
        if method == "gm-vq" or decoder != "later"
    ]
    settings = ("steps", "codes", "batch", "lr")
    return make_records(
        "transplant", argv, options, settings, cells, functools.partial(measure, options=options)
    )


def measure(*, method: str, decoder: str, seed: int, options: Any) -> dict[str, Any]:
    """Put one quantizer into the autoencoder of this seed, and train it."""
    continuous = autoencoder(seed, options.steps, options.batch)
    networks = build()
    for net, weights in zip(networks, continuous["weights"], strict=True):
        net.load_state_dict(weights)
    torch.manual_seed(seed)
    name, more = METHODS[method]
    sizes = {"dim": DIM, "codebook_size": options.codes}
    quantizer: Any = build_quantizer({"quantizer": name, "options": more, **sizes})
    model = VQAutoencoder(networks[0], quantizer, networks[1])
    model.encoder.requires_grad_(False)
    start(model, seed)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=options.lr)
    points = {0: errors(model, options.codes)}
    for step, x in zip(range(POINTS[-1]), batches(seed + 1, options.batch), strict=False):
        if hasattr(quantizer, "set_progress"):
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
            points[step + 1] = errors(model, options.codes)
    return {"continuous": continuous["mse"], "points": points}


@torch.no_grad()
def start(model: Any, seed: int) -> None:
    """k-means on the same latents for both."""
    x = images("train")[torch.randperm(len(images("train")), generator=torch.Generator().manual_seed(seed))]
    with evaluating(model.encoder):
        latents = torch.cat([model._latents(part) for part in x[: LATENTS // 64].split(64)]).flatten(0, -2)
    init = getattr(model.quantizer, "init_codebook", None)
    init(latents) if init else model.quantizer.train()(latents)


@functools.cache
def autoencoder(seed: int, steps: int, batch: int) -> dict[str, Any]:
    """Weights of an encoder and a decoder trained without codes, and their error on the test images."""
    torch.manual_seed(seed)
    encoder, decoder = build()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=4e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.05)
    for _, x in zip(range(steps), batches(seed, batch), strict=False):
        loss = (decoder(encoder(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        parts = [(decoder(encoder(x)).clamp(0, 1) - x).square() for x in images("test").split(64)]
    return {
        "weights": [net.state_dict() for net in (encoder, decoder)],
        "mse": float(torch.cat(parts).mean()),
    }


def build() -> tuple[Any, Any]:
    return build_networks("tiny", dim=DIM)


def batches(seed: int, size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield images("train")[torch.randint(len(images("train")), (size,), generator=generator)]


@functools.cache
def images(split: str) -> Tensor:
    found = open_images("photos", split=split, size=32, augment=False)
    return torch.stack([found[i] for i in range(len(found))])


@torch.no_grad()
def errors(model: Any, codes: int) -> dict[str, float]:
    """Test error, and perplexity and usage of the codes."""
    metrics, total = CodebookMetrics(codes), 0.0
    with evaluating(model):
        for x in images("test").split(64):
            out = model(x)
            metrics.update(out.quantizer.indices)
            total += float((out.reconstruction.clamp(0, 1) - x).square().sum())
    found = metrics.compute()
    return {"mse": total / images("test").numel(), **{k: found[k] for k in ("perplexity", "usage")}}

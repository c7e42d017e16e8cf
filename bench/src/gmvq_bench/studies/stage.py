"""The perceptual and adversarial stage against the bound alone, at the same number of steps.

    OMP_NUM_THREADS=1 gmvq study stage

KID by EfficientNet-Lite2, which the stage is not trained on (it has Lite0), of the reconstructions of the test split
against its images (pairs), and the same by Lite0; MSE and perplexity.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer

from gmvq.cli.training_run import quieten
from gmvq.evaluation.batches import image_batches
from gmvq.evaluation.distances import kernel_distances
from gmvq.evaluation.extractors import EfficientNetLite
from gmvq.evaluation.generation import features
from gmvq.evaluation.metrics import CodebookMetrics, ImageMetrics
from gmvq.training import ImageDataModule, TokenizerModule

from .records import make_records, study_parser

DATA: dict[str, dict[str, Any]] = {
    "photographs, 32 px": {"path": "all_photos", "size": 32, "batch_size": 64, "vary": True},
    "emoji, 64 px": {"path": "emoji", "size": 64, "batch_size": 32, "flip": False},
}
METHODS: dict[str, dict[str, Any]] = {
    "bound alone": {},
    "perceptual 0.5": {"perceptual": 0.5},
}


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("stage", "KID, MSE and perplexity of reconstructions.", list(METHODS), range(3))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--split", default="test", help="validation: to choose options")
    parser.add_argument("--images", type=int, default=1000, help="images at most that KID is of")
    parser.set_defaults(steps=200)
    options = parser.parse_args(list(argv))
    names = itertools.product(options.seeds, options.data, options.methods)
    cells = [{"data": data, "method": method, "seed": seed} for seed, data, method in names]
    settings = ("steps", "split", "images")
    quieten()
    return make_records("stage", argv, options, settings, cells, measure)


def measure(*, data: str, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one model and measure it."""
    images = ImageDataModule(**DATA[data], seed=seed, num_workers=0)
    downsample = {32: 4, 64: 8}[images.size]
    settings: dict[str, Any] = METHODS[method]
    module = TokenizerModule(downsample=downsample, seed=seed, **settings)
    trainer = Trainer(
        max_steps=options.steps,
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, images)
    model = module.model.eval()
    test = images.dataset(options.split)
    quality, codes = ImageMetrics(ssim=True), CodebookMetrics(model.quantizer.codebook_size)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for x in image_batches(test, batch_size=128, device=torch.device("cpu"), limit=options.images):
        tokens = model.encode(x)
        pairs.append((x, model.decode(tokens).clamp(0.0, 1.0)))
        quality.update(pairs[-1][1], x)
        codes.update(tokens)
    real, copies = (torch.cat(part) for part in zip(*pairs, strict=True))
    found = quality.compute()
    return {
        "settings": module.settings,
        "images": len(real),
        **{name: found[name] for name in ("mse", "ssim")},
        "perplexity": codes.compute()["perplexity"],
        "kid": {size: _kid(real, copies, EfficientNetLite(size=size)) for size in (0, 2)},
    }


def _kid(real: torch.Tensor, copies: torch.Tensor, extractor: EfficientNetLite) -> float:
    extractor.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    first, second = (features(x, extractor, 128).double() for x in (real, copies))
    parts = torch.ones(1, len(first), dtype=torch.bool)
    return float(kernel_distances(first, second, parts, parts, paired=True))

"""The perceptual and adversarial stage against the bound alone, at the same number of steps.

    OMP_NUM_THREADS=1 gmvq study stage

KID by EfficientNet-Lite2, which the stage is not trained on (it has Lite0), of the reconstructions of the test split
against its images (pairs), and rFID by the same, both also by Lite0; MSE and perplexity. Whole test photographs as the
models of the first seed make them stand side by side in docs/figures/stage.webp.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image

from gmvq.cli.training_run import quieten
from gmvq.data import ImageDataset
from gmvq.data.decode import decode
from gmvq.evaluation.batches import image_batches
from gmvq.evaluation.distances import frechet_distance, kernel_distances
from gmvq.evaluation.extractors import EfficientNetLite
from gmvq.evaluation.generation import features
from gmvq.evaluation.maps import look
from gmvq.evaluation.metrics import CodebookMetrics, ImageMetrics
from gmvq.evaluation.pictures import Picture, save_png, sheet, to_picture
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
#: Whole photographs, a column for each method, and the figure that they become.
COLUMNS, FIGURE = Path("runs", "stage"), Path("docs", "figures", "stage.webp")


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser(
        "stage", "KID, rFID, MSE and perplexity of reconstructions.", list(METHODS), range(3)
    )
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--split", default="test", help="validation: to choose options")
    parser.add_argument("--images", type=int, default=1000, help="images at most that are measured")
    parser.set_defaults(steps=200)
    options = parser.parse_args(list(argv))
    names = itertools.product(options.seeds, options.data, options.methods)
    cells = [{"data": data, "method": method, "seed": seed} for seed, data, method in names]
    settings = ("steps", "split", "images")
    quieten()
    code = make_records("stage", argv, options, settings, cells, measure)
    columns = [COLUMNS / f"{name}.png" for name in ("original", *METHODS)]
    if all(column.is_file() for column in columns):
        whole = np.concatenate([np.asarray(decode(column, 3)) for column in columns], axis=1)
        Image.fromarray(whole).save(FIGURE, quality=90)
    return code


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
    assert isinstance(test, ImageDataset)
    quality, codes = ImageMetrics(ssim=True), CodebookMetrics(model.quantizer.codebook_size)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for x in image_batches(test, batch_size=128, device=torch.device("cpu"), limit=options.images):
        tokens = model.encode(x)
        pairs.append((x, model.decode(tokens).clamp(0.0, 1.0)))
        quality.update(pairs[-1][1], x)
        codes.update(tokens)
    real, copies = (torch.cat(part) for part in zip(*pairs, strict=True))
    found = quality.compute()
    if seed == options.seeds[0]:
        seen = [look(model, *one) for one in test.whole_pictures(3, 256)]
        for name, column in (("original", "image"), (method, "reconstruction")) if seen else ():
            save_png(COLUMNS / f"{name}.png", _column([getattr(one, column) for one in seen]))
    distances = {size: _distances(real, copies, EfficientNetLite(size=size)) for size in (0, 2)}
    return {
        "settings": module.settings,
        "images": len(real),
        **{name: found[name] for name in ("mse", "ssim")},
        "perplexity": codes.compute()["perplexity"],
        **{kind: {size: found[kind] for size, found in distances.items()} for kind in ("kid", "fid")},
    }


def _distances(real: torch.Tensor, copies: torch.Tensor, extractor: EfficientNetLite) -> dict[str, float]:
    extractor.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    first, second = (features(x, extractor, 128).double() for x in (real, copies))
    parts = torch.ones(1, len(first), dtype=torch.bool)
    kid = kernel_distances(first, second, parts, parts, paired=True)
    return {"kid": float(kid), "fid": frechet_distance(first, second)}


def _column(images: list[torch.Tensor]) -> Picture:
    """Pictures below each other, their upper left parts of one size."""
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    return sheet([to_picture(image[:, :height, :width]) for image in images], 1)

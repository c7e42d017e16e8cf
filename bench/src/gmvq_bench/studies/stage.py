"""The perceptual and adversarial stage against the bound alone, at the same number of steps.

KID by EfficientNet-Lite2, which the stage is not trained on (it has Lite0), of the reconstructions of the test split
against its images (pairs), and rFID by the same, both also by Lite0; MSE and perplexity. Whole test photographs as the
models of the first seed make them stand side by side in docs/figures/stage.webp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image

from gmvq.cli.training_run import prepare
from gmvq.data import ImageDataset
from gmvq.data.decode import decode
from gmvq.evaluation import evaluate, reconstruction_metrics
from gmvq.evaluation.extractors import EfficientNetLite
from gmvq.evaluation.maps import look
from gmvq.evaluation.pictures import Picture, save_png, sheet, to_picture
from gmvq.training import ImageDataModule, TokenizerModule

from .records import cells_of, make_records, study_parser

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
    cells = cells_of(seed=options.seeds, data=options.data, method=options.methods)
    settings = ("steps", "split", "images")
    prepare()
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
    unused = ("logger", "use_distributed_sampler", "enable_checkpointing")
    unused += ("enable_progress_bar", "enable_model_summary")
    how = {"max_steps": options.steps, "accelerator": "cpu", "limit_val_batches": 0}
    Trainer(**how, **dict.fromkeys(unused, False)).fit(module, images)
    model, test = module.model.eval(), images.dataset(options.split)
    assert isinstance(test, ImageDataset)
    if seed == options.seeds[0]:
        seen = [look(model, *one) for one in test.whole_pictures(3, 256)]
        for name, column in (("original", "image"), (method, "reconstruction")) if seen else ():
            save_png(COLUMNS / f"{name}.png", _column([getattr(one, column) for one in seen]))
    some = {"batch_size": 128, "limit": options.images}
    figures = evaluate(model, test, **some)
    distances = {
        size: reconstruction_metrics(model, test, EfficientNetLite(size=size), resamples=2, **some)
        for size in (0, 2)
    }
    return {
        "settings": module.settings,
        "images": figures.images,
        **{name: getattr(figures, name) for name in ("mse", "ssim", "perplexity")},
        "kid": {size: found.kid.value for size, found in distances.items()},
        "fid": {size: found.fid.value for size, found in distances.items()},
    }


def _column(images: list[torch.Tensor]) -> Picture:
    """Pictures below each other, their upper left parts of one size."""
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    return sheet([to_picture(image[:, :height, :width]) for image in images], 1)

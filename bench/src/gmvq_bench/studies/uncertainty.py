"""Does the adaptive variance know where GM-VQ errs, and which images are new to it? Trained anew for each seed.

GM-VQ as in ``gmvq compare`` (the runs of fashion_mnist-k256 and photos32-k256, with the learning rate chosen there):
Fashion-MNIST against enlarged digits, photographs against emoji. Beside it GM-VQ in 16 dimensions, as its rivals are,
and the best of them, by the distance of its latents to their codewords. And GM-VQ after the 6,000 steps of the suite
``long``, with two seeds. The likelihood's scale is that of images of the train split. About 20 s a run on one core, 8
minutes a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gmvq.data import open_images

from ..comparison.train import train_model
from ..rate_distortion.points import likelihood_of
from ..uncertainty.measure import measure_uncertainty
from ..uncertainty.scores import Digits, image_scores
from .records import cells_of, images_of, make_records, study_parser, tuned_run

#: Name -> the suite, its setting, and the images that are new to its models.
PAIRS = {
    "fashion_mnist-k256": ("fashion_mnist", "fashion_mnist-k256", "digits"),
    "photos32-k256": ("photos32", "photos32-k256", "emoji"),
    "long-photos32-k256": ("long", "photos32-k256", "emoji"),
}
METHODS = ("gm-vq", "gm-vq, D = 16", "vq-ema-replace, relative")
#: Of a long training: a method, and the number of seeds.
LONG = ("gm-vq", 2)


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("uncertainty", "Uncertainty against errors and other images.", METHODS, range(5))
    parser.add_argument("--images", type=int, default=2000, help="of either set, at most")
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args(list(argv))
    few = options.seeds[: LONG[1]]
    cells = [
        cell
        for cell in cells_of(seed=options.seeds, setting=PAIRS, method=options.methods)
        if PAIRS[cell["setting"]][0] != "long" or (cell["method"] == LONG[0] and cell["seed"] in few)
    ]
    settings = ("images", "resamples", "steps")
    return make_records("uncertainty", argv, options, settings, cells, measure)


def measure(*, setting: str, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one model and measure it."""
    suite, tuned, new = PAIRS[setting]
    run = tuned_run(suite, tuned, method, seed, options.steps)
    model = train_model(run)
    shape = {"size": run["size"], "channels": run["channels"]}
    likelihood = likelihood_of(model, images_of(run, "train"))
    test = images_of(run, "test")
    other: Any = Digits(**shape) if new == "digits" else open_images(new, split="test", **shape)
    scored = {"likelihood": likelihood, "batch_size": 256, "limit": options.images, "seed": seed}
    inside, outside = image_scores(model, test, **scored), image_scores(model, other, **scored)
    found = measure_uncertainty(inside, outside, resamples=options.resamples, seed=seed)
    return {
        "other": new,
        "run": run,
        "mse": float(inside.mse.mean()),
        "mse_other": float(outside.mse.mean()),
        "scale": float(likelihood.log_scale.exp()),
        "uncertainty": asdict(found),
    }

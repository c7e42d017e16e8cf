"""``gmvq evaluate``: every figure of a trained tokenizer over one split of a set of images."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Loaded, load, parser_for_model, positive, say
from .data_options import add_data_options, open_data

if TYPE_CHECKING:
    from torch import nn

    from ..data import TrainingSet


def run(argv: Sequence[str]) -> int:
    """Evaluate; return the exit code."""
    options = _parser().parse_args(list(argv))
    if options.inception and not options.fid:
        raise ValueError("--inception gives the features of --fid; add --fid")
    loaded = load(options)
    if options.fid and loaded.spatial_dims != 2:
        raise ValueError("--fid compares pictures, and the model is of signals; leave it out")
    images = open_data(options, loaded)

    from ..evaluation import evaluate, format_table, open_extractor, write_metrics
    from ..training.export import load_likelihood

    extractor = open_extractor(options.inception) if options.fid else None
    say(images.description)
    evaluation = evaluate(
        loaded.model,
        images,
        batch_size=options.batch_size,
        likelihood=load_likelihood(options.checkpoint),
        bound_samples=options.bound_samples,
        progress=_show if sys.stderr.isatty() else None,
        limit=options.limit,
    )
    print(format_table(evaluation))
    figures = evaluation.to_dict()
    if extractor is not None:
        figures["reconstruction"] = _fid(options, loaded, images, extractor)
    say(f"written to {write_metrics(_target(options, loaded), figures)}")
    return 0


def _fid(
    options: argparse.Namespace, loaded: Loaded, images: TrainingSet, extractor: nn.Module
) -> dict[str, Any]:
    """Print rFID and its like, and return them for the file."""
    from ..evaluation import format_generation, reconstruction_metrics

    metrics = reconstruction_metrics(
        loaded.model,
        images,
        extractor,
        batch_size=options.batch_size,
        limit=options.limit,
        resamples=options.resamples,
    )
    print(f"\n{format_generation(metrics)}")
    return metrics.to_dict()


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "evaluate", "Measure a tokenizer over a set of images or signals: print a table, write JSON."
    )
    add_data_options(parser, default="what the model was trained on")
    parser.add_argument(
        "--bound_samples",
        type=int,
        default=0,
        metavar="N",
        help="samples of the importance-weighted bound (default: 0, leave it out)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N images")
    parser.add_argument(
        "--fid",
        action="store_true",
        help="also rFID, KID, precision and recall of the reconstructions against the images, with intervals",
    )
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="weights of the standard Inception network (pt_inception-2015-12-05-6726825d.pth) for --fid; needs "
        "torch-fidelity (default: the packaged EfficientNet-Lite0, whose figures compare with each other alone)",
    )
    parser.add_argument(
        "--resamples",
        type=positive,
        default=50,
        metavar="N",
        help="half-samples behind the intervals of --fid (default: 50)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="where to write the figures; default: beside the model"
    )
    return parser


def _target(options: argparse.Namespace, loaded: Loaded) -> Path:
    """Beside the model; under a name of its own where it is not the test split that training ended with."""
    if options.json:
        return Path(options.json)
    if loaded.path is None:
        folder = Path.cwd()
    else:
        folder = loaded.path if loaded.path.is_dir() else loaded.path.parent
        if folder.name in ("model", "checkpoints") and (folder.parent / "config.yaml").is_file():
            folder = folder.parent
    parts = ["metrics"]
    trained = (loaded.notes.get("data") or {}).get("path")
    if options.data and options.data != trained:
        parts.append(re.sub(r"[^\w.-]+", "_", Path(options.data.removeprefix("hf:")).stem))
    if options.split != "test":
        parts.append(options.split)
    if options.limit:
        parts.append(f"first{options.limit}")
    return folder / f"{'-'.join(parts)}.json"


def _show(done: int, total: int | None) -> None:
    end = "\n" if done == total else ""
    print(f"\rbatch {done}" + (f" of {total}" if total else ""), end=end, file=sys.stderr, flush=True)

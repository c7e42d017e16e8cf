"""``gmvq evaluate``: every figure of a trained tokenizer over one split of a set of images."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..progress import Progress
from .common import option, positive, say, tell
from .loaded import (
    Loaded,
    add_data_options,
    add_fid_options,
    add_spending,
    check_fid,
    list_skipped,
    load,
    open_data,
    parser_for_model,
)


def run(argv: Sequence[str]) -> int:
    """Evaluate; return 0, or 1 if an item could not be read."""
    options = _parser().parse_args(list(argv))
    check_fid(options)
    loaded = load(options)
    check_fid(options, loaded)
    images = open_data(options, loaded)

    from ..evaluation import (
        evaluate,
        format_generation,
        format_table,
        open_extractor,
        reconstruction_metrics,
        write_metrics,
    )
    from ..training.parts import likelihood_of

    extractor = open_extractor(options.inception) if options.fid else None
    say(images.description)
    with Progress("batches", quiet=not sys.stderr.isatty()) as progress:
        evaluation = evaluate(
            loaded.model,
            images,
            batch_size=options.batch_size,
            likelihood=likelihood_of(loaded.notes),
            bound_samples=options.bound_samples,
            progress=progress,
            limit=options.limit,
            **loaded.spend,
        )
    tell(format_table(evaluation))
    figures = evaluation.to_dict() | loaded.spend
    if extractor is not None:
        more = {"limit": options.limit, "resamples": options.resamples, **loaded.spend}
        metrics = reconstruction_metrics(
            loaded.model, images, extractor, batch_size=options.batch_size, **more
        )
        tell(f"\n{format_generation(metrics)}")
        figures["reconstruction"] = metrics.to_dict()
    target = write_metrics(_target(options, loaded), figures)
    say(f"written to {target}")
    return list_skipped(target, options, loaded, images)


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "evaluate", "Measure a tokenizer over a set of images or signals: print a table, write JSON."
    )
    add_data_options(parser, default="what the model was trained on")
    add_spending(parser)
    text = "samples of the importance-weighted bound; 0 leaves it out"
    option(parser, "--bound_samples", text, int, 0, metavar="N")
    option(parser, "--limit", "use only the first N images", int, metavar="N")
    add_fid_options(parser, "rFID, KID, precision and recall of the reconstructions against the images")
    option(parser, "--resamples", "half-samples behind the intervals of --fid", positive, 50, metavar="N")
    option(parser, "--json", "where to write the figures; default: beside the model", metavar="FILE")
    return parser


def _target(options: argparse.Namespace, loaded: Loaded) -> Path:
    """Beside the model; under a name of its own where it is not the test split that training ended with."""
    if options.json:
        return Path(options.json)
    parts = ["metrics"]
    trained = loaded.data.get("path")
    if options.data and options.data != trained:
        parts.append(re.sub(r"[^\w.-]+", "_", Path(options.data.removeprefix("hf:")).stem))
    if options.split != "test":
        parts.append(options.split)
    if options.limit:
        parts.append(f"first{options.limit}")
    parts += [f"{name}{value:g}" for name, value in loaded.spend.items()]
    return loaded.folder / f"{'-'.join(parts)}.json"

"""``gmvq uncertainty``: does a tokenizer know when it errs, and does it know images it was not trained on."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmvq.cli.common import option, positive, say, tell, tell_skipped
from gmvq.cli.loaded import Loaded, add_data_options, load, open_data, parser_for_model

if TYPE_CHECKING:
    from ..uncertainty.scores import Scores

_DIGITS = "digits"


def run(argv: Sequence[str]) -> int:
    """Measure; return 0, or 1 if an item could not be read."""
    options = _parser().parse_args(list(argv))
    loaded = load(options)

    from gmvq.evaluation.tables import write_metrics

    from ..uncertainty.measure import format_uncertainty, measure_uncertainty

    images = open_data(options, loaded)
    other = _other(options, loaded, tuple(images[0].shape)) if options.ood else None
    scores = _scores(options, loaded, images)
    out = None if other is None else _scores(options, loaded, other)
    found = measure_uncertainty(scores, out, bins=options.bins, resamples=options.resamples)
    tell(format_uncertainty(found))
    if options.json:
        say(f"written to {write_metrics(options.json, dataclasses.asdict(found))}")
    return _tell_skipped(options, [*images.skipped, *getattr(other, "skipped", ())])


def _tell_skipped(options: argparse.Namespace, skipped: list[tuple[str, str]]) -> int:
    """Name what was left out, in a list beside the figures if they are written; return the exit code."""
    from gmvq.data.skipping import is_bad, write_skipped

    if options.json:
        target = Path(options.json)
        return tell_skipped(target, write_skipped(target, options.data or "", skipped))
    for name, reason in filter(is_bad, skipped):
        say(f"{name} could not be used: {reason}")
    return int(any(map(is_bad, skipped)))


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "uncertainty",
        "Compare the uncertainty that a tokenizer states, log s^2 and H(q(c|x)), with the error it makes, and with "
        "images of another kind.",
    )
    add_data_options(parser, default="what the model was trained on")
    ood = "images of another kind, as --data, or digits (scikit-learn, enlarged): how well each score tells them apart"
    option(parser, "--ood", ood, metavar="PATH")
    option(parser, "--limit", "use only the first N images of either set", positive, metavar="N")
    option(parser, "--bins", "quantile bins of log s^2", positive, 10)
    option(parser, "--resamples", "of the bootstrap", positive, 200, metavar="N")
    option(parser, "--json", "write the figures", metavar="FILE")
    return parser


def _scores(options: argparse.Namespace, loaded: Loaded, images: Any) -> Scores:
    from gmvq.training.parts import likelihood_of

    from ..uncertainty.scores import image_scores

    say(images.description)
    some = {"batch_size": options.batch_size, "limit": options.limit}
    return image_scores(loaded.model, images, likelihood=likelihood_of(loaded.notes), **some)


def _other(options: argparse.Namespace, loaded: Loaded, shape: tuple[int, ...]) -> Any:
    """The images of --ood, in the size and channels of the others; their own test split where they have one."""
    if options.ood == _DIGITS:
        from ..uncertainty.scores import Digits

        if len(shape) != 3:
            raise ValueError("--ood digits are images, and the model is of signals; give --ood PATH")
        return Digits(shape[-1], shape[0])
    changed = {"data": options.ood, "split": None, "column": None, "size": shape[-1]}
    return open_data(argparse.Namespace(**{**vars(options), **changed}), loaded)

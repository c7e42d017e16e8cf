"""``gmvq rd``: rate-distortion curves of tokenizers over K and beta, their tokens truly coded, beside JPEG and WebP."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from gmvq.cli.common import add_strict, option, parser_of, positive, say, tell, tell_skipped
from gmvq.files import write_text


def run(argv: Sequence[str]) -> int:
    """Measure or report; return 0, or 1 if a round trip was not exact, or an item could not be read."""
    options = _parser().parse_args(list(argv))
    bad = 0
    if options.report is None:
        from .skipped import list_skipped

        place = (options.data, options.size, options.channels)
        bad = list_skipped(options.out, [place], strict=options.strict)
        results = _measure(options, argv)
    else:
        from ..rate_distortion.points import KIND
        from ..results import read

        if not options.report.is_file():
            raise FileNotFoundError(f"there is no results file {options.report}")
        results = read(options.report, KIND)
    from ..rate_distortion.report import plot, tables

    text = tables(results)
    tell(text)
    write_text(options.out / "rd.md", text)
    plot(results, options.out / "rd.png")
    say(f"written to {options.out}: rd.md, rd.png" + (", rd.json" if options.report is None else ""))
    return tell_skipped(options.out, bad) or int(not all(point["exact"] for point in results["points"]))


def _measure(options: argparse.Namespace, argv: Sequence[str]) -> dict:
    from ..rate_distortion.points import Point, Study, run_study

    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Study)[:-1]}
    study = Study(**fields, flip=not options.no_flip)
    pairs: list[tuple[int, float | None]] = [(size, None) for size in options.codebook_sizes]
    pairs += list(itertools.product(options.beta_sizes or options.codebook_sizes[-1:], options.betas))
    points = [Point(size, beta, seed) for size, beta in pairs for seed in range(options.seeds)]
    say(f"{len(points)} points; results in {options.out}; a study that was stopped goes on where it was")
    return run_study(
        study, points, options.out, command=shlex.join(["gmvq", "rd", *argv]), device=options.device, say=say
    )


def _parser() -> argparse.ArgumentParser:
    from ..rate_distortion.points import Study

    parser = parser_of(
        "rd",
        "Train tokenizers over K and beta, each with a prior on its tokens, and measure rate (entropy, cross-entropy "
        "of the prior, true bytes of a range coder) against distortion, beside JPEG and WebP.",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/rd"), metavar="DIR", help="default: runs/rd")
    add("--report", type=Path, metavar="FILE", help="show a results file; nothing is measured")
    sizes = {"type": positive, "nargs": "+", "metavar": "K"}
    usual = "with the default beta (default: 16 64 256 1024)"
    add("--codebook_sizes", **sizes, default=[16, 64, 256, 1024], help=usual)
    betas = "constant weights of KL(qbar || pi)"
    add("--betas", type=float, nargs="*", default=[0.1, 1.0, 10.0], help=betas)
    add("--beta_sizes", **sizes, help="with these K; default: the last of --codebook_sizes")
    add("--seeds", type=positive, default=1, metavar="N", help="seeds per point (default: 1)")
    add("--no_flip", action="store_true", help="do not show mirror images while training")
    add("--device", default="cpu", help="where to train (default: cpu)")
    add_strict(parser)
    for field in dataclasses.fields(Study)[:-1]:
        kind = positive if isinstance(field.default, int) else type(field.default)
        option(parser, f"--{field.name}", field.metadata["help"], kind, field.default)
    return parser

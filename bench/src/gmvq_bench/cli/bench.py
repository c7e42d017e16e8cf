"""``gmvq bench``: speed and memory of the layer against its peers, or of the training step."""

from __future__ import annotations

import importlib
import shlex
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from gmvq.cli.common import Parser, positive, say

#: name -> (module with ``run(argv) -> exit code``, what it does in one line)
TARGETS = {
    "layer": (
        __name__,
        "the quantizer layer: ours in all implementations, its peers, and the machine's floors",
    ),
    "step": ("gmvq_bench.speed.step", "the training step of gmvq fit, part by part"),
}


def run(argv: Sequence[str]) -> int:
    """Run one benchmark; return the exit code: 0 measured, 1 a contestant of ours is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: gmvq bench TARGET [OPTIONS]\n\ntargets:")
        print("\n".join(f"  {name:<7}{summary}" for name, (_, summary) in TARGETS.items()))
        return 0 if argv else 2
    target, *rest = argv
    if target not in TARGETS:
        raise ValueError(f"there is no benchmark {target!r}; there are {', '.join(TARGETS)}")
    if target == "step":
        return importlib.import_module(TARGETS[target][0]).run(rest)
    return _layer(rest)


def _layer(argv: Sequence[str]) -> int:
    options = _parser().parse_args(list(argv))
    if (options.json is None) == (options.report is None):
        raise ValueError("give --json FILE to measure, or --report FILE to show what one holds")
    if options.report is not None:
        from ..results import read
        from ..speed.layer import KIND

        results = read(options.report, KIND)
    else:
        from ..speed.layer import IncorrectError

        try:
            results = _measure(options, argv)
        except IncorrectError as error:
            print(f"gmvq bench: nothing was timed, a result is wrong:\n{error}", file=sys.stderr)
            return 1

    from ..speed.table import render

    print(render(results, provenance=options.markdown))
    if options.plot is not None:
        from ..speed.plots import plot

        plot(results, options.plot)
        say(f"drawn to {options.plot}")
    return 0


def _measure(options: Namespace, argv: Sequence[str]) -> dict:
    import torch

    from ..speed.layer import Limits, run

    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {options.device} cannot be used here: {reason}") from error
    results = run(
        options.json,
        which="quick" if options.quick else "default",
        device=torch.device(options.device),
        threads=options.threads,
        limits=None if options.memory is None else Limits(1e9 * options.memory),
        command=shlex.join(["gmvq", "bench", "layer", *argv]),
        say=say,
    )
    say(f"written to {options.json}")
    return results


def _parser() -> Parser:
    parser = Parser(
        prog="gmvq bench layer",
        description="Check every implementation of the layer, then measure it, its peers and the machine's floors. "
        "A run that was stopped goes on where it was.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file; resumed if it exists")
    parser.add_argument("--quick", action="store_true", help="a few cases, about a minute")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument(
        "--memory",
        type=_gigabytes,
        metavar="GB",
        help="contestants that would take more are skipped (default: 6 on a CPU, 80 %% of a GPU's)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw cost against K, as .png, .svg or .pdf"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="show what a results file holds, measure nothing"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="put device, versions and command in front, for docs"
    )
    return parser


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise ArgumentTypeError(f"expected a positive number of GB, got {text!r}")
    return number

"""``gmvq bench layer``: speed and memory of the layer against its peers."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from gmvq.cli.common import Parser, chosen_device, parser_of, positive, say, tell
from gmvq.environment import at_most_cores

TARGETS = {"layer": "the quantizer layer: ours, its peers, and the machine's floors"}


def run(argv: Sequence[str]) -> int:
    """Run one benchmark; return the exit code: 0 measured, 1 a contestant of ours is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: gmvq bench TARGET [OPTIONS]\n\ntargets:")
        print("\n".join(f"  {name:<7}{summary}" for name, summary in TARGETS.items()))
        return 0 if argv else 2
    if argv[0] not in TARGETS:
        raise ValueError(f"there is no benchmark {argv[0]!r}; there are {', '.join(TARGETS)}")
    options = _parser().parse_args(list(argv[1:]))
    if (options.json is None) == (options.report is None):
        raise ValueError("give --json FILE to measure, or --report FILE to show what one holds")
    from ..results import read
    from ..speed.layer import KIND, IncorrectError
    from ..speed.table import render

    try:
        results = _measure(options, argv) if options.report is None else read(options.report, KIND)
    except IncorrectError as error:
        print(f"gmvq bench: nothing was timed, a result is wrong:\n{error}", file=sys.stderr)
        return 1
    tell(render(results))
    if options.plot is not None:
        from ..speed.plots import plot

        plot(results, options.plot)
        say(f"drawn to {options.plot}")
    return 0


def _measure(options: Namespace, argv: Sequence[str]) -> dict:
    from ..speed.grid import grid
    from ..speed.layer import Limits, memory_of, run

    device = chosen_device(options.device)
    which = "quick" if options.quick else "cells" if options.cells else "default"
    results = run(
        options.json,
        grid(which, device),
        which=which,
        device=device,
        threads=options.threads and at_most_cores(options.threads, "threads"),
        limits=Limits(memory_of(device), cpu_time=options.cpu_time),
        command=shlex.join(["gmvq", "bench", *argv]),
        say=say,
    )
    say(f"written to {options.json}")
    return results


def _parser() -> Parser:
    parser = parser_of(
        "bench layer",
        "Check the layer against its definition, then measure it, its peers and the machine's floors. A run that was "
        "stopped goes on where it was.",
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="results file; resumed if it exists")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a few cases, about a minute")
    text = "65,536 codes and more: searches, which cells may shorten, beside those by all products, and training steps"
    which.add_argument("--cells", action="store_true", help=text)
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    text = "measure the CPU time of all threads, not the wall time: for a machine with other work"
    add("--cpu_time", action="store_true", help=text)
    add("--threads", type=positive, metavar="N", help="CPU threads (default: torch's)")
    add("--plot", type=Path, metavar="FILE", help="draw cost against K, as .png, .svg or .pdf")
    add("--report", type=Path, metavar="FILE", help="show what a results file holds, measure nothing")
    return parser

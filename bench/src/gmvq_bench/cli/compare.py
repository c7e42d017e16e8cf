"""``gmvq compare``: train every method of a suite on the same network, tuned alike, with seeds; table and plots."""

from __future__ import annotations

import dataclasses
import shlex
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmvq.cli.common import Parser, add_strict, chosen_device, parser_of, positive, say, tell, tell_skipped
from gmvq.environment import at_most_cores, cores
from gmvq.files import inside, write_json, write_text

from .compare_robust import ROBUST, list_robust, run_robust, show_robust

if TYPE_CHECKING:
    from ..comparison.suite import Suite


def run(argv: Sequence[str]) -> int:
    """Run or report a suite; return the exit code: 0 done, 1 a run of the suite failed or an item could not be read."""
    options = _parser().parse_args(list(argv))
    options.threads = at_most_cores(options.threads, "threads")
    if options.list:
        return _list()
    if options.report is not None:
        return _report(options.report, options.out)
    if options.suite is None:
        raise ValueError("give --suite NAME to run, --report FILE... to show results, or --list")
    if options.suite in ROBUST:
        if options.devices:
            raise ValueError(
                "the robust suites run on the CPU; leave --devices out, --workers says how many at a time"
            )
        return run_robust(options, argv, _workers(options.workers, options.threads))
    if options.parity:
        raise ValueError(f"--parity is for the suites {', '.join(ROBUST)}")
    return _run(options, argv)


def _run(options: Namespace, argv: Sequence[str]) -> int:
    from ..comparison.execute import Records, run_suite
    from ..comparison.runs import KIND, assemble
    from ..comparison.suite import load_suite
    from ..results import read
    from .skipped import list_skipped

    suite = narrowed(load_suite(options.suite), options)
    out = options.out or Path("runs/compare")
    places = [(one.data, one.size, one.channels) for one in suite.settings.values()]
    bad = 0 if options.assemble else list_skipped(out, places, strict=options.strict)
    records = Records(out / "runs")
    for path in options.known:
        records.add_known(read(path, KIND).get("runs"))
    devices = [] if options.assemble else _devices(options)
    say(f"{suite.name}: {suite.description}\nresults in {out}; a run that was stopped goes on where it was")
    done = run_suite(suite, records, devices=devices, threads=options.threads, say=say)
    results = assemble(
        suite,
        done,
        command=shlex.join(["gmvq", "compare", *argv]),
        date=datetime.now().astimezone().date().isoformat(),
    )
    write_json(inside(out, f"{suite.name}.json"), results)
    say(f"written to {out / suite.name}.json")
    _show(results, out)
    failed = sum(bool(record["error"]) for record in done)
    if failed:
        say(
            f"{failed} of {len(done)} runs failed; the report says which, and the same command tries them again"
        )
    return tell_skipped(out, bad) or int(failed > 0)


def narrowed(suite: Suite, options: Namespace) -> Suite:
    """The part of a suite that a command line asks for."""

    def chosen(what: str, given: dict[str, Any], names: list[str] | None, always: tuple[str, ...]) -> Any:
        unknown = [name for name in names or () if name not in given]
        if unknown:
            raise ValueError(
                f"suite {suite.name} has no {what} {', '.join(unknown)}; it has {', '.join(given)}"
            )
        return {k: v for k, v in given.items() if not names or k in names or k in always}

    settings = chosen("setting", suite.settings, options.settings, ())
    tuned = {s.tuned_as for s in settings.values() if s.tuned_as and s.tuned_as not in settings}
    if tuned:
        raise ValueError(f"these settings take their tuning from {', '.join(sorted(tuned))}: name it too")
    return dataclasses.replace(
        suite,
        settings=settings,
        methods=chosen("method", suite.methods, options.methods, (suite.ours,)),
        seeds=suite.seeds if options.seeds is None else suite.seeds[: options.seeds],
    )


def _devices(options: Namespace) -> list[str]:
    import torch

    for device in options.devices or ():
        chosen_device(device, "--devices")
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    places = options.devices or gpus
    if not places:
        return ["cpu"] * _workers(options.workers, options.threads)
    workers = at_most_cores(options.workers or 1, "runs per GPU")
    return [device for device in places for _ in range(workers)]


def _workers(asked: int | None, threads: int) -> int:
    """CPU runs at a time, with so many threads each: as many as there are cores for, or those of --workers."""
    most = max(1, cores() // threads)
    if asked is not None and asked > most:
        say(f"--workers {asked}: there are cores for {most} at a time, of {threads} threads each")
    return min(asked or most, most)


def _report(paths: list[Path], out: Path | None) -> int:
    from ..comparison.runs import KIND
    from ..results import read
    from ..robust.suite import KIND as ROBUST_KIND

    shows = {KIND: _show, ROBUST_KIND: show_robust}
    for path in paths:
        results = read(path, *shows)
        shows[results["kind"]](results, out)
    return 0


def _show(results: dict[str, Any], out: Path | None) -> None:
    """Print the report, and with a folder write it there with its plots."""
    from ..comparison.plots import plot_all
    from ..comparison.report import render

    text = render(results)
    tell(text)
    if out is not None:
        write_text(inside(out, f"{results['suite']['name']}.md"), text)
        for file in plot_all(results, out):
            say(f"drawn to {file}")


def _list() -> int:
    from ..comparison.suite import load_suite, suite_names

    for name in suite_names():
        suite = load_suite(name)
        print(f"{name}: {suite.description}")
        print(
            f"    {len(suite.settings)} settings, {len(suite.methods)} methods, {len(suite.seeds)} seeds, "
            f"{len(suite.pairs()) * len(suite.seeds)} final runs"
        )
    list_robust()
    return 0


def _parser() -> Parser:
    parser = parser_of(
        "compare",
        "Train every method of a suite on the same network, data and steps; tune each over its own small grid on the "
        "validation split; measure with seeds on the test split. A stopped run goes on where it was.",
    )
    add = parser.add_argument
    add("--suite", metavar="NAME", help="a suite of the package (--list), or a YAML file")
    add("--assemble", action="store_true", help="train nothing: report the runs that are there")
    add("--list", action="store_true", help="list the suites of the package")
    shown = "show what results files hold, train nothing"
    add("--report", type=Path, nargs="+", metavar="FILE", help=shown)
    folder = "folder of runs, results, report and plots (default: runs/compare)"
    add("--out", type=Path, metavar="DIR", help=folder)
    known = "results files whose runs need no repetition"
    add("--known", type=Path, nargs="+", default=[], metavar="FILE", help=known)
    add("--methods", nargs="+", metavar="NAME", help="only these methods, and ours")
    add("--settings", nargs="+", metavar="NAME", help="only these settings")
    parity = "robust suites: only the even- or odd-numbered settings"
    add("--parity", choices=("even", "odd"), help=parity)
    add("--seeds", type=positive, metavar="N", help="only the first N seeds")
    workers = "runs at a time (default: one per core), or per GPU (default: 1)"
    add("--workers", type=positive, metavar="N", help=workers)
    add("--threads", type=positive, default=1, metavar="N", help="CPU threads of a run (default: 1)")
    devices = "such as cuda:0 cuda:1 (default: all GPUs, else the CPU)"
    add("--devices", nargs="+", metavar="DEVICE", help=devices)
    add_strict(parser)
    return parser

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

from .skipped import list_skipped

if TYPE_CHECKING:
    from ..comparison.suite import Suite

ROBUST = ("robust", "robust-small", "robust-fresh", "robust-ablations")
#: A results file, and the records of its runs.
Made = tuple[dict[str, Any], list[dict[str, Any]]]


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
    robust, out = options.suite in ROBUST, options.out or Path("runs/compare")
    if robust and options.devices:
        raise ValueError(
            "the robust suites run on the CPU; leave --devices out, --workers says how many at a time"
        )
    if options.parity and not robust:
        raise ValueError(f"--parity is for the suites {', '.join(ROBUST)}")
    about = {
        "command": shlex.join(["gmvq", "compare", *argv]),
        "date": datetime.now().astimezone().date().isoformat(),
    }
    bad = 0
    if robust:
        results, done = _run_robust(options, out, about)
    else:
        from ..comparison.suite import load_suite

        suite = narrowed(load_suite(options.suite), options)
        if not options.assemble:
            places = [(one.data, one.size, one.channels) for one in suite.settings.values()]
            bad = list_skipped(out, places, strict=options.strict)
        results, done = _run(suite, options, out, about)
    if options.assemble and not done:
        raise ValueError(
            f"{out} holds no run of {options.suite}, and --assemble trains none; give --out or --known"
        )
    file = inside(out, f"{results['suite']['name']}.json")
    write_json(file, results)
    say(f"written to {file}")
    _show(results, out)
    # In networks drawn at random, divergence is a result.
    errors = [record["error"] for record in done if record["error"]]
    failed = [error for error in errors if not (robust and error.startswith("DivergedError"))]
    if failed:
        say(
            f"{len(failed)} of {len(done)} runs failed; the report says which, and the same command tries them again"
        )
    return tell_skipped(out, bad) or int(bool(failed))


def _run(suite: Suite, options: Namespace, out: Path, about: dict[str, str]) -> Made:
    from ..comparison.execute import Records, run_suite
    from ..comparison.runs import KIND, assemble
    from ..results import read

    records = Records(out / "runs")
    for path in options.known:
        records.add_known(read(path, KIND).get("runs"))
    devices = [] if options.assemble else _devices(options)
    say(f"{suite.name}: {suite.description}\nresults in {out}; a run that was stopped goes on where it was")
    done = run_suite(suite, records, devices=devices, threads=options.threads, say=say)
    return assemble(suite, done, **about), done


def _run_robust(options: Namespace, out: Path, about: dict[str, str]) -> Made:
    from ..comparison.execute import Records, execute
    from ..results import read
    from ..robust.data import missing
    from ..robust.suite import KIND, SUITES, assemble, chosen_methods, key_of, runs_of, select, train_one

    name = options.suite
    selection = select(name, missing(), options.parity, options.settings)
    runs = runs_of(selection.settings, chosen_methods(name, options.methods), options.seeds or 1)
    records = Records(out / "robust")
    for path in options.known:
        records.add_known([{"phase": "final", "options": {}, **run} for run in read(path, KIND)["runs"]])
    devices = [] if options.assemble else ["cpu"] * _workers(options.workers, options.threads)
    say(f"{name}: {SUITES[name]}\n{len(runs)} runs, results in {out}; a stopped run goes on")
    for data, reason in selection.reasons.items():
        say(f"left out, for want of data: settings of {data}: {reason}")
    how = {"devices": devices, "threads": options.threads, "say": say}
    done = execute(runs, records, **how, train_one=train_one, key=key_of)
    return assemble(name, selection, done, **about), done


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

    for path in paths:
        _show(read(path, KIND, ROBUST_KIND), out)
    return 0


def _show(results: dict[str, Any], out: Path | None) -> None:
    """Print the report, and with a folder write it there, of a tuned suite with its plots."""
    from ..comparison.plots import plot_all
    from ..comparison.report import render
    from ..comparison.runs import KIND
    from ..robust.report import render as render_robust

    tuned = results["kind"] == KIND
    text = (render if tuned else render_robust)(results)
    tell(text)
    if out is not None:
        write_text(inside(out, f"{results['suite']['name']}.md"), text)
        for file in plot_all(results, out) if tuned else ():
            say(f"drawn to {file}")


def _list() -> int:
    """Print the suites with their sizes."""
    from ..comparison.suite import load_suite, suite_names
    from ..robust.design import seconds
    from ..robust.methods import RATES, TUNED
    from ..robust.suite import SUITES, chosen_methods, runs_of, settings_of

    for name in suite_names():
        suite = load_suite(name)
        print(f"{name}: {suite.description}")
        print(
            f"    {len(suite.settings)} settings, {len(suite.methods)} methods, {len(suite.seeds)} seeds, "
            f"{len(suite.pairs()) * len(suite.seeds)} final runs"
        )
    for name in ROBUST:
        settings = {setting.name: setting for setting in settings_of(name)}
        runs = runs_of(settings.values(), chosen_methods(name, None), 1)
        hours = sum(
            seconds(settings[run["setting"]]) * (len(RATES) if run["method"] in TUNED else 1) / 3600
            for run in runs
        )
        print(f"{name}: {SUITES[name]}")
        print(
            f"    {len(settings)} settings, {len(runs)} runs for each seed, about {hours:.1f} hours of one core"
        )
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

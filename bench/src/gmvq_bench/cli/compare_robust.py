"""``gmvq compare --suite robust``, ``-small`` and ``-fresh``: the layer in networks drawn at random, nothing tuned."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gmvq.cli.common import say, tell
from gmvq.files import inside, write_json, write_text

ROBUST = ("robust", "robust-small", "robust-fresh", "robust-ablations")


def run_robust(options: Namespace, argv: Sequence[str], workers: int) -> int:
    """Run a suite, or with ``--assemble`` take the runs that are there; 0 done, 1 a run failed but for divergence."""
    from ..comparison.execute import Records, execute
    from ..results import read
    from ..robust.data import missing
    from ..robust.suite import KIND, SUITES, assemble, chosen_methods, key_of, runs_of, select, train_one

    methods = chosen_methods(options.suite, options.methods)
    selection = select(options.suite, missing(), options.parity, options.settings)
    out = options.out or Path("runs/compare")
    runs = runs_of(selection.settings, methods, options.seeds or 1)
    say(
        f"{options.suite}: {SUITES[options.suite]}\n{len(runs)} runs, results in {out}; a stopped run goes on"
    )
    for name, reason in selection.reasons.items():
        say(f"left out, for want of data: settings of {name}: {reason}")
    devices = [] if options.assemble else ["cpu"] * workers
    records = Records(out / "robust")
    for path in options.known:
        records.add_known([{"phase": "final", "options": {}, **run} for run in read(path, KIND)["runs"]])
    done = execute(
        runs, records, devices=devices, threads=options.threads, say=say, train_one=train_one, key=key_of
    )
    results = assemble(
        options.suite,
        selection,
        done,
        command=shlex.join(["gmvq", "compare", *argv]),
        date=datetime.now().astimezone().date().isoformat(),
    )
    write_json(out / f"{options.suite}.json", results)
    say(f"written to {out / options.suite}.json")
    show_robust(results, out)
    failed = [r for r in done if r["error"] and not r["error"].startswith("DivergedError")]
    if failed:
        say(f"{len(failed)} of {len(done)} runs failed; the same command tries them again")
    return int(bool(failed))


def list_robust() -> None:
    """Print the suites with their sizes."""
    from ..robust.design import seconds
    from ..robust.methods import RATES
    from ..robust.suite import SUITES, chosen_methods, runs_of, settings_of

    for name in ROBUST:
        settings, methods = settings_of(name), chosen_methods(name, None)
        hours, runs = 0.0, 0
        for setting in settings:
            chosen = [run["method"] for run in runs_of([setting], methods, 1)]
            runs += len(chosen)
            trainings = len(chosen) + (len(RATES) - 1) * chosen.count("ema-best-rate")
            hours += seconds(setting) * trainings / 3600
        print(f"{name}: {SUITES[name]}")
        print(f"    {len(settings)} settings, {runs} runs for each seed, about {hours:.1f} hours of one core")


def show_robust(results: dict[str, Any], out: Path | None) -> None:
    """Print the report of a results file; with a folder, write it there too."""
    from ..robust.report import render

    text = render(results)
    tell(text)
    if out is not None:
        write_text(inside(out, f"{results['suite']['name']}.md"), text)

"""A results file of `gmvq compare` as Markdown: tables, what the seeds can tell apart, and what is missing."""

from __future__ import annotations

from typing import Any

from ..markdown import escaped, label, table
from ..markdown import render as filled
from ..statistics import mean_interval
from .report_tables import (
    NONE,
    best_discrete,
    column,
    grid_table,
    problems,
    ranking,
    rivals_table,
    setting_table,
    tuned_in,
    why_missing,
)
from .runs import Finals, complete, figures, finals, problem, takes_part

_PACKAGES = ("torch", "gmvq", "vector-quantize-pytorch")


def render(results: dict[str, Any]) -> str:
    """The whole report."""
    suite, env = results["suite"], results["environment"]
    environments = [run["environment"] for run in results["runs"] if run.get("environment")]
    found = {name: sorted({str(e.get(name)) for e in environments}) for name in ("device", *_PACKAGES)}
    tuned = {name: tuned_in(suite, name) for name in suite["settings"]}
    grids = [
        {
            "setting": setting,
            "same": [name for name, place in tuned.items() if place == setting != name],
            "table": grid_table(results, setting),
        }
        for setting in dict.fromkeys(tuned.values())
    ]
    text = filled(
        "compare.md.j2",
        results=results,
        suite=suite,
        env=env,
        versions=[f"{name} {env[name]}" for name in ("python", *_PACKAGES) if env.get(name)],
        several={name: values for name, values in found.items() if len(values) > 1},
        settings=[_setting(results, setting) for setting in suite["settings"]],
        grids=grids,
        absent=_absent(results),
    )
    return text.rstrip() + "\n"


def _setting(results: dict[str, Any], setting: str) -> dict[str, Any]:
    """Tables of a setting, and what its text says of them."""
    suite, runs = results["suite"], finals(results, setting)
    known = [run for found in runs.values() for run in found.values()]
    extractors = {str(run.get("extractor")) for run in known if run["test"].get("kid") is not None}
    return {
        "name": setting,
        "what": suite["settings"][setting],
        "tuned_in": tuned_in(suite, setting),
        "figures": setting_table(results, setting),
        "rivals": rivals_table(suite, runs),
        "extractors": sorted(extractors),
    }


def _absent(results: dict[str, Any]) -> list[str]:
    """Failed runs with their errors, then seeds that were not run, in words."""
    suite = results["suite"]
    failed: dict[tuple[str, str, str, str], list[str]] = {}
    for run in results["runs"]:
        error, phase = problem(run), "final" if run["phase"] == "final" else "tuning"
        if error is not None:
            which = f"seed {run['seed']}" if phase == "final" else f"lr {run['lr']:g}"
            failed.setdefault((run["setting"], run["method"], phase, error), []).append(which)
    lines = [
        f"- {label(setting)}, {label(method)}, {phase} ({', '.join(sorted(which))}) failed: {escaped(error)}"
        for (setting, method, phase, error), which in sorted(failed.items())
    ]
    done = {
        (run["setting"], run["method"], run["seed"]) for run in results["runs"] if run["phase"] == "final"
    }
    for setting in suite["settings"]:
        for name in (name for name, method in suite["methods"].items() if takes_part(method, setting)):
            missing = [str(seed) for seed in suite["seeds"] if (setting, name, seed) not in done]
            if missing:
                tried = problems(results, tuned_in(suite, setting), name, "tune")
                failed_all = bool(tried) and None not in tried
                why = "not run: its whole grid failed" if failed_all else "not yet run"
                seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(missing)}"
                lines.append(f"- {label(setting)}, {label(name)}: {seeds} {why}")
    return lines


def short_table(results: dict[str, Any], settings: list[str]) -> str:
    """One row a method, MSE and perplexity for each of the settings, best of the discrete ones in bold."""
    suite = results["suite"]
    ceilings = {name for name, method in suite["methods"].items() if method.get("ceiling")}
    found = {name: finals(results, name) for name in settings}
    ranked = dict.fromkeys(method for name in settings for method in ranking(suite, found[name]))
    order = sorted(ranked, key=lambda name: name not in ceilings)
    order += [m for m in suite["methods"] if m not in ranked and any(m in runs for runs in found.values())]
    columns = [one for name in settings for one in _short_columns(results, name, found[name], order)]
    head = [text for name in settings for text in (f"{label(name)}: MSE x 1e-3", "perplexity")]
    first = [f"*{label(name)}*" if name in ceilings else label(name) for name in order]
    return table(["method", *head], zip(first, *columns, strict=True))


def _short_columns(results: dict[str, Any], setting: str, runs: Finals, order: list[str]) -> list[list[str]]:
    """The cells of MSE and of perplexity."""
    suite, seeds = results["suite"], len(results["suite"]["seeds"])
    known = [name for name in order if runs.get(name)]
    errors = column(suite, runs, known, ("", "mse", 1e3, 3, False))
    discrete = [name for name in known if not suite["methods"][name].get("ceiling")]
    found = {name: figures(runs[name], "perplexity").values() for name in discrete}
    means = {name: mean_interval(values)[0] for name, values in found.items() if values}
    codes = {name: f"{mean:.0f}" for name, mean in means.items()}
    whole = [name for name in known if complete(suite, runs[name])]
    widest = max((name for name in whole if name in means), key=lambda name: means[name], default=None)
    for name in order:
        if name in runs and not runs[name]:
            errors[name] = why_missing(results, setting, name).split(":")[0]
        elif name in known and name not in whole:
            errors[name] += f" ({len(runs[name])} of {seeds} seeds)"
    for cells, bold in ((errors, best_discrete(suite, runs)), (codes, widest)):
        cells |= {bold: f"**{cells[bold]}**"} if bold in cells else {}
    return [[cells.get(name, NONE) for name in order] for cells in (errors, codes)]

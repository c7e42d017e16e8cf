"""A results file of `gmvq compare` as Markdown: tables, what the seeds can tell apart, and what is missing."""

from __future__ import annotations

from typing import Any

from ..markdown import escaped, label, table
from ..markdown import render as filled
from ..statistics import mean_interval
from .report_tables import (
    NONE,
    ablation_table,
    best_discrete,
    decimals,
    grid_table,
    ranking,
    rivals_table,
    setting_table,
    tuned_in,
    tuning_failed,
    why_missing,
    with_interval,
)
from .runs import Finals, complete, figures, finals, is_rival, mean_mse, problem, takes_part

_PACKAGES = ("torch", "gmvq", "vector-quantize-pytorch")


def render(results: dict[str, Any], *, level: str = "##") -> str:
    """The whole report; ``level`` is the heading of its title, parts are one deeper."""
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
        level=level,
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
    ablations = suite.get("reference") is not None
    rivals = not ablations or any(is_rival(suite, name) for name in runs)
    extractors = {str(run.get("extractor")) for run in known if run["test"].get("kid") is not None}
    return {
        "name": setting,
        "what": suite["settings"][setting],
        "tuned_in": tuned_in(suite, setting),
        "ablations": ablation_table(suite, runs) if ablations else "",
        "tested": sum(1 for name in runs if runs[name] and name != suite.get("reference")),
        "figures": setting_table(results, setting) if rivals else "",
        "rivals": rivals_table(suite, runs) if rivals else "",
        "extractors": sorted(extractors),
        "timed": any(run.get("steps_per_second") is not None for run in known),
    }


def _mean(runs: dict[int, dict[str, Any]], name: str) -> float:
    values = figures(runs, name)
    return mean_interval(values.values())[0] if values else float("nan")


def _absent(results: dict[str, Any]) -> list[str]:
    """Failed runs with their errors, then seeds that were not run, in words."""
    suite = results["suite"]
    failed: dict[tuple[str, str, str, str], list[str]] = {}
    done: dict[tuple[str, str], set[int]] = {}
    for run in results["runs"]:
        error, final = problem(run), run["phase"] == "final"
        if final:
            done.setdefault((run["setting"], run["method"]), set()).add(run["seed"])
        if error is not None:
            which = f"seed {run['seed']}" if final else f"lr {run['lr']:g}"
            failed.setdefault((run["setting"], run["method"], run["phase"], error), []).append(which)
    phases = {"final": "final", "tune": "tuning"}
    lines = [
        f"- {label(setting)}, {label(method)}, {phases[phase]} ({', '.join(sorted(which))}) failed: {escaped(error)}"
        for (setting, method, phase, error), which in sorted(failed.items())
    ]
    for setting in suite["settings"]:
        for name, method in suite["methods"].items():
            missing = [str(s) for s in suite["seeds"] if s not in done.get((setting, name), set())]
            if missing and takes_part(method, setting):
                plural = "seeds" if len(missing) > 1 else "seed"
                why = (
                    "not run: its whole grid failed"
                    if tuning_failed(results, setting, name)
                    else "not yet run"
                )
                lines.append(f"- {label(setting)}, {label(name)}: {plural} {', '.join(missing)} {why}")
    return lines


def short_table(results: dict[str, Any], settings: list[str] | None = None) -> str:
    """For the README: one row a method, MSE and perplexity for each setting, best of the discrete ones in bold."""
    suite = results["suite"]
    names = list(settings or suite["settings"])
    unknown = [name for name in names if name not in suite["settings"]]
    if unknown:
        raise ValueError(
            f"no setting {', '.join(unknown)} in these results; there are {', '.join(suite['settings'])}"
        )
    found = {name: finals(results, name) for name in names}
    order = list(dict.fromkeys(method for name in names for method in ranking(suite, found[name])))
    order.sort(key=lambda name: not suite["methods"][name].get("ceiling"))
    order += [name for name in suite["methods"] if name not in order and any(name in found[s] for s in names)]
    columns = [column for name in names for column in _short_columns(results, name, found[name], order)]
    head = ["method"]
    for name in names:
        head += [f"{label(name)}: MSE x 1e-3", "perplexity"]
    lines = []
    for i, name in enumerate(order):
        method = suite["methods"][name]
        first = f"*{label(name)}*" if method.get("ceiling") else label(name)
        lines.append([first, *(column[i] for column in columns)])
    return table(head, lines)


def _short_columns(results: dict[str, Any], setting: str, runs: Finals, order: list[str]) -> list[list[str]]:
    """The cells of MSE and of perplexity."""
    suite = results["suite"]
    known = [name for name in order if runs.get(name)]
    digits = decimals((1e3 * mean_mse(runs[name]) for name in known), 3)
    errors, codes = [], []
    best = best_discrete(suite, runs)
    discrete = [n for n in known if complete(suite, runs[n]) and not suite["methods"][n].get("ceiling")]
    widest = max(discrete, key=lambda name: _mean(runs[name], "perplexity"), default=None)
    for name in order:
        if not runs.get(name):
            errors.append(why_missing(results, setting, name).split(":")[0] if name in runs else NONE)
            codes.append(NONE)
            continue
        text = with_interval(*mean_interval(1e3 * v for v in figures(runs[name], "mse").values()), digits)
        if not complete(suite, runs[name]):
            text += f" ({len(runs[name])} of {len(suite['seeds'])} seeds)"
        width = NONE if suite["methods"][name].get("ceiling") else f"{_mean(runs[name], 'perplexity'):.0f}"
        errors.append(f"**{text}**" if name == best else text)
        codes.append(f"**{width}**" if name == widest else width)
    return [errors, codes]

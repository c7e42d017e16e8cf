"""The report of a robust suite in Markdown: ours against the best rival, what losing settings share, every setting."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..markdown import render as filled
from ..markdown import table
from .methods import DRESSED, METHODS, MORE, OURS, PUBLISHED
from .score import Duel, duel, figures, geometric_mean, properties, summary

#: Groups of rivals: the best of a group is what ours is compared with.
_GROUPS = {"as published": PUBLISHED, "in our dress": DRESSED, "further rivals": MORE}
_MAIN = ("as published", "in our dress")


def render(results: dict[str, Any]) -> str:
    """The report of a results file."""
    there = {run["method"] for run in results["runs"]}
    ours, methods = ([name for name in names if name in there] for names in (OURS, METHODS))
    parities = {parity: _settings(results, parity) for parity in ("even", "odd")}
    return (
        filled(
            "robust.md.j2",
            results=results,
            summaries=_summaries(results, ours),
            commons={one: _common(results, one) for one in ours},
            parities={
                parity: (_properties(results, settings), _rows(results, settings, ours, methods))
                for parity, settings in parities.items()
                if settings
            },
        ).rstrip("\n")
        + "\n"
    )


def _summaries(results: dict[str, Any], ours: list[str]) -> str:
    rows = []
    for one in ours:
        for group in _GROUPS:
            for parity in ("even", "odd", None):
                duels = _duels(results, one, group, parity)
                if duels:
                    s = summary(duels)
                    cells = [
                        f"{s.settings}",
                        f"{s.ratio:.3f}",
                        f"{s.worst:.2f}",
                        s.worst_setting,
                        f"{s.lost}",
                    ]
                    cells += [f"{s.perplexity_ratio:.2f}", f"{s.usage_kept:.0%}"]
                    rows.append([one, group, parity or "all", *cells])
    head = "ours|rivals|settings|number|MSE ratio, geometric mean|worst|in|above 1|perplexity ratio, median|usage kept"
    return table(head.split("|"), rows)


def _duels(results: dict[str, Any], ours: str, group: str, parity: str | None) -> list[Duel]:
    found = (duel(results, setting, ours, _GROUPS[group]) for setting in _settings(results, parity))
    return [d for d in found if d is not None]


def _settings(results: dict[str, Any], parity: str | None) -> list[str]:
    """Names of the settings of a parity."""
    wanted = {"even": (0,), "odd": (1,), None: (0, 1)}[parity]
    return [name for name, setting in results["settings"].items() if setting["number"] % 2 in wanted]


def _common(results: dict[str, Any], ours: str) -> str:
    """For every value of every property the geometric mean ratio over the settings that have it, the worst first."""
    frame: Any = pd.DataFrame(
        [
            (what, value, group, one.ratio)
            for group in _MAIN
            for one in _duels(results, ours, group, None)
            for what, values in properties(results["settings"][one.setting]).items()
            for value in values
        ],
        columns=["property", "value", "group", "ratio"],
    )
    rows = []
    for key, found in frame.groupby(["property", "value"], sort=False):
        groups = dict(list(found.groupby("group")["ratio"]))
        means = {group: geometric_mean(ratios) for group, ratios in groups.items()}
        cells = [f"{means[group]:.3f}" if group in means else "–" for group in _MAIN]
        lost = max(int((ratios > 1.0).sum()) for ratios in groups.values())
        rows.append((max(means.values()), [*key, str(max(map(len, groups.values()))), *cells, str(lost)]))
    rows.sort(key=lambda row: -row[0])
    head = ["property", "value", "settings", "ratio as published", "ratio in our dress", "above 1"]
    return table(head, [cells for _, cells in rows])


def _properties(results: dict[str, Any], settings: list[str]) -> str:
    names = [n for n in results["settings"][settings[0]] if n not in ("number", "network", "endings")]
    rows = []
    for name in settings:
        setting = results["settings"][name]
        endings = ", ".join(setting["endings"]) or "–"
        rows.append([str(setting["number"]), setting["network"], endings, *(str(setting[n]) for n in names)])
    return table(["", "network", "endings", *names], rows)


def _rows(results: dict[str, Any], settings: list[str], ours: list[str], methods: list[str]) -> str:
    """Ratios, and MSE x 1000 / perplexity / usage of every method."""
    rows = []
    for name in settings:
        duels = [duel(results, name, one, _GROUPS[group]) for one in ours for group in _MAIN]
        ratios = ["–" if found is None else f"{found.ratio:.3f}" for found in duels]
        cells = [_cell(results, name, method) for method in methods]
        rows.append([str(results["settings"][name]["number"]), *ratios, *cells])
    heads = [f"{one} / {short}" for one in ours for short in ("published", "dressed")]
    return table(["", *heads, *methods], rows)


def _cell(results: dict[str, Any], setting: str, method: str) -> str:
    found = figures(results, setting, method)
    if found is None:
        return "–"
    text = f"{found.mse * 1e3:.3g} / {found.perplexity:.3g} / {found.usage:.2f}"
    return text + " ×" if found.failed else text

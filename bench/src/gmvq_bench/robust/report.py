"""The report of a robust suite in Markdown: ours against the best rival, what losing settings share, every setting."""

from __future__ import annotations

from typing import Any

from ..markdown import table
from .methods import DRESSED, METHODS, MORE, OURS, PUBLISHED
from .score import Duel, duel, figures, geometric_mean, properties, summary

#: Groups of rivals: the best of a group is what ours is compared with.
_GROUPS = {
    "as published": PUBLISHED,
    "in our dress": DRESSED,
    "further rivals": MORE,
}
_HEAD = (
    "MSE of ours divided by the lowest MSE among the rivals of a group, on unseen data; below 1 ours is better. A run "
    "that failed, or ends worse than the mean training example shown for everything, counts as the latter. The "
    "perplexity and the usage are compared with those of the rival with the lowest MSE; usage is kept if ours is not "
    "below it by more than 0.005. Nothing is tuned, nothing set by hand."
)


def render(results: dict[str, Any]) -> str:
    """The report of a results file."""
    parts = [_title(results), _HEAD, _summaries(results)]
    for ours in _ran(results, OURS):
        parts += [f"### What settings have in common: {ours}", _common(results, ours)]
    for parity in ("even", "odd"):
        settings = _settings(results, parity)
        if settings:
            parts += [f"### The {parity} settings", _properties(results, settings), _rows(results, settings)]
    failures = _failures(results)
    return "\n\n".join([*parts, *failures]) + "\n"


def _title(results: dict[str, Any]) -> str:
    suite, environment = results["suite"], results["environment"]
    lines = [
        f"## {suite['name']}: {suite['description']}",
        f"`{results['command']}`, {results['date']}, {environment['device']}, {environment['threads']} thread per run, "
        f"torch {environment['torch']}, vector-quantize-pytorch {environment['vector-quantize-pytorch']}.",
    ]
    left_out = results["left_out"]
    if left_out["settings"]:
        lacking = "; ".join(f"{name}: {reason}" for name, reason in left_out["reasons"].items())
        lines.append(
            f"**Left out** for want of data: {', '.join(left_out['settings'])}. This machine lacks {lacking}"
        )
    return "\n\n".join(lines)


def _summaries(results: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for ours in _ran(results, OURS):
        for group in _GROUPS:
            for parity in ("even", "odd", None):
                duels = _duels(results, ours, group, parity)
                if duels:
                    rows.append([ours, group, parity or "all", *_summary_cells(duels)])
    head = "ours|rivals|settings|number|MSE ratio, geometric mean|worst|in|above 1|perplexity ratio, median|usage kept"
    return table(head.split("|"), rows)


def _summary_cells(duels: list[Duel]) -> list[str]:
    line = summary(duels)
    return [
        str(line.settings),
        f"{line.ratio:.3f}",
        f"{line.worst:.2f}",
        line.worst_setting,
        str(line.lost),
        f"{line.perplexity_ratio:.2f}",
        f"{line.usage_kept:.0%}",
    ]


def _duels(results: dict[str, Any], ours: str, group: str, parity: str | None) -> list[Duel]:
    found = (duel(results, setting, ours, _GROUPS[group]) for setting in _settings(results, parity))
    return [d for d in found if d is not None]


def _settings(results: dict[str, Any], parity: str | None) -> list[str]:
    """Names of the settings of a parity."""
    wanted = {"even": (0,), "odd": (1,), None: (0, 1)}[parity]
    return [name for name, setting in results["settings"].items() if setting["number"] % 2 in wanted]


def _ran(results: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    there = {run["method"] for run in results["runs"]}
    return [name for name in names if name in there]


def _common(results: dict[str, Any], ours: str) -> str:
    """For every value of every property the geometric mean ratio over the settings that have it, the worst first."""
    ratios: dict[tuple[str, str], dict[str, list[float]]] = {}
    for group in ("as published", "in our dress"):
        for one in _duels(results, ours, group, None):
            for what, values in properties(results["settings"][one.setting]).items():
                for value in values:
                    ratios.setdefault((what, value), {}).setdefault(group, []).append(one.ratio)
    means = {key: {g: geometric_mean(v) for g, v in found.items()} for key, found in ratios.items()}
    rows = []
    for key in sorted(means, key=lambda k: -max(means[k].values())):
        lost = max(sum(r > 1.0 for r in values) for values in ratios[key].values())
        count = max(len(values) for values in ratios[key].values())
        cells = [f"{means[key][g]:.3f}" if g in means[key] else "–" for g in ("as published", "in our dress")]
        rows.append([*key, str(count), *cells, str(lost)])
    return table(
        ["property", "value", "settings", "ratio as published", "ratio in our dress", "above 1"], rows
    )


def _properties(results: dict[str, Any], settings: list[str]) -> str:
    names = [n for n in results["settings"][settings[0]] if n not in ("number", "network", "endings")]
    rows = []
    for name in settings:
        setting = results["settings"][name]
        endings = ", ".join(setting["endings"]) or "–"
        rows.append([str(setting["number"]), setting["network"], endings, *(str(setting[n]) for n in names)])
    return table(["", "network", "endings", *names], rows)


def _rows(results: dict[str, Any], settings: list[str]) -> str:
    """Ratios, and MSE x 1000 / perplexity / usage of every method."""
    methods = _ran(results, METHODS)
    ours = _ran(results, OURS)
    rows = []
    for name in settings:
        ratios = [
            _ratio(results, name, one, group) for one in ours for group in ("as published", "in our dress")
        ]
        rows.append(
            [str(results["settings"][name]["number"]), *ratios, *(_cell(results, name, m) for m in methods)]
        )
    heads = [f"{one} / {short}" for one in ours for short in ("published", "dressed")]
    caption = "MSE x 1000 / perplexity / share of codes used, of every method; × : a run failed."
    return f"{table(['', *heads, *methods], rows)}\n\n{caption}"


def _ratio(results: dict[str, Any], setting: str, ours: str, group: str) -> str:
    found = duel(results, setting, ours, _GROUPS[group])
    return "–" if found is None else f"{found.ratio:.3f}"


def _cell(results: dict[str, Any], setting: str, method: str) -> str:
    found = figures(results, setting, method)
    if found is None:
        return "–"
    text = f"{found.mse * 1e3:.3g} / {found.perplexity:.3g} / {found.usage:.2f}"
    return text + " ×" if found.failed else text


def _failures(results: dict[str, Any]) -> list[str]:
    lines = [
        f"- {run['setting']}, {run['method']}, seed {run['seed']}: {run['error']}".replace("|", "\\|")
        for run in results["runs"]
        if run["error"]
    ]
    return ["### Runs that failed", "\n".join(lines)] if lines else []

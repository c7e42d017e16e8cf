"""The tables of a report: figures of a setting, ours against each rival, and the grids."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import numpy as np

from ..markdown import escaped, label, table
from ..statistics import holm, mean_interval, paired
from .runs import Finals, complete, figures, finals, is_rival, mean_mse, problem, takes_part
from .suite import point_of

NONE = "-"
#: Figures of the test split: heading, name, factor, significant digits, whether it is one of codes.
_COLUMNS: tuple[tuple[str, str, float, int, bool], ...] = (
    ("MSE x 1e-3", "mse", 1e3, 4, False),
    ("PSNR, dB", "psnr", 1, 4, False),
    ("SSIM", "ssim", 1, 4, False),
    ("KID x 1e-3", "kid", 1e3, 4, False),
    ("perplexity", "perplexity", 1, 4, True),
    ("usage, %", "usage", 100, 3, True),
    ("distinct codewords", "distinct", 1, 4, True),
    ("bits per pixel (entropy)", "bits_per_pixel_entropy", 1, 4, True),
)


def setting_table(results: dict[str, Any], setting: str) -> str:
    """Mean and 95 % interval of every figure; ceilings on top, then by mean MSE, then what has no run."""
    suite, runs = results["suite"], finals(results, setting)
    order, best = ranking(suite, runs), best_discrete(suite, runs)
    columns = [c for c in _COLUMNS if any(figures(runs[name], c[1]) for name in order)]
    cells = [column(suite, runs, order, c) for c in columns]
    lines = []
    for name in [*order, *(name for name in runs if name not in order)]:
        known = name in order
        line = [label(name) + _remark(suite, runs[name], name), *(one.get(name, NONE) for one in cells)]
        if not known:
            line[1:2] = [why_missing(results, setting, name)]
        elif suite["methods"][name].get("ceiling"):
            line = [cell if cell == NONE else f"*{cell}*" for cell in line]
        elif name == best:
            line[:2] = [f"**{cell}**" for cell in line[:2]]
        lines.append(line)
    return table(["method", *([c[0] for c in columns] or ["figures"])], lines)


def ranking(suite: dict[str, Any], runs: Finals) -> list[str]:
    """Methods with runs: ceilings first, then by mean MSE."""
    known = [name for name in runs if runs[name]]
    return sorted(known, key=lambda name: (not suite["methods"][name].get("ceiling"), mean_mse(runs[name])))


def best_discrete(suite: dict[str, Any], runs: Finals) -> str | None:
    """The method with codes and all its seeds that has the lowest mean MSE."""
    names = [n for n in runs if complete(suite, runs[n]) and not suite["methods"][n].get("ceiling")]
    return min(names, key=lambda name: mean_mse(runs[name]), default=None)


def column(suite: dict[str, Any], runs: Finals, order: list[str], what: tuple) -> dict[str, str]:
    """Cells of a column by method, of a figure as in ``_COLUMNS``."""
    _, field, factor, significant, of_codes = what
    means: dict[str, tuple[float, float | None]] = {}
    for name in order:
        values = figures(runs[name], field)
        if values and not (of_codes and suite["methods"][name].get("ceiling")):
            means[name] = mean_interval(factor * v for v in values.values())
    # Decimals that show a typical value of the column with so many significant digits.
    sizes = [abs(mean) for mean, _ in means.values() if mean]
    first = math.floor(math.log10(statistics.median_low(sizes))) if sizes else 0
    digits = max(0, min(6, significant - 1 - first))
    texts = {
        name: f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")
        for name, (mean, half) in means.items()
    }
    return {name: texts.get(name, NONE) for name in order}


def _remark(suite: dict[str, Any], runs: dict[int, Any], name: str) -> str:
    ceiling = suite["methods"][name].get("ceiling")
    kind = "ours" if name == suite["ours"] else "ceiling" if ceiling else "variant of ours"
    marks = [] if is_rival(suite, name) else [kind]
    if runs and not complete(suite, runs):
        marks.append(f"{len(runs)} of {len(suite['seeds'])} seeds")
    return f" ({', '.join(marks)})" if marks else ""


def why_missing(results: dict[str, Any], setting: str, name: str) -> str:
    """Why a method has no figures in a setting, in a few words."""
    place = tuned_in(results["suite"], setting)
    for where, phase in ((setting, "final"), (place, "tune")):
        errors = problems(results, where, name, phase)
        if errors and None not in errors:
            return f"failed: {escaped(str(errors[0]))}"
    return "not yet run"


def problems(results: dict[str, Any], setting: str, name: str, phase: str) -> list[str | None]:
    """Why each run of a method has no figures; None of a run that has."""
    wanted = (setting, name, phase)
    return [problem(r) for r in results["runs"] if (r["setting"], r["method"], r["phase"]) == wanted]


def rivals_table(suite: dict[str, Any], runs: Finals) -> str:
    """Ours against each rival, paired over seeds; p is corrected for the number of rivals."""
    ours = figures(runs[suite["ours"]], "mse")
    names = [n for n in ranking(suite, runs) if is_rival(suite, n) and runs[n].keys() & ours.keys()]
    tests = {name: paired(ours, figures(runs[name], "mse")) for name in names}
    known = {name: test.p for name, test in tests.items() if test.p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    rows = []
    for name, test in tests.items():
        low, high = test.percent_interval or (None, None)
        interval = "(no interval)" if low is None else f"[{low:+.1f}, {high:+.1f}]"
        p = corrected.get(name)
        text = NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
        first = _below_from(*([runs[n][seed] for seed in test.seeds] for n in (suite["ours"], name)))
        rows.append([label(name), f"{test.percent:+.1f} {interval}", text, first, str(len(test.seeds))])
    mse = f"MSE of {label(suite['ours'])}, % [95 % interval]"
    head = ("against", mse, "p (Holm)", "training error below from step", "seeds")
    return table(head, rows) if rows else ""


def _below_from(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """The step from which our mean training error is below theirs to the end; NONE: it is not at the end."""
    means = [np.mean([run["curve"]["mse"] for run in runs], axis=0) for runs in (ours, theirs)]
    stays = np.logical_and.accumulate((means[0] < means[1])[::-1])[::-1]
    return f"{ours[0]['curve']['step'][int(stays.argmax())]:,}" if stays.any() else NONE


def tuned_in(suite: dict[str, Any], setting: str) -> str:
    """The setting whose tuning a setting uses."""
    return suite["settings"][setting].get("tuned_as") or setting


def grid_table(results: dict[str, Any], setting: str) -> str:
    """The grid of every method that is tuned in a setting, and what was chosen."""
    suite = results["suite"]
    names = [name for name, method in suite["methods"].items() if takes_part(method, setting)]
    lines = [_grid_line(results, setting, name) for name in names]
    head = ("method", "grid", "chosen", "validation MSE x 1e-3", "at an edge of the grid", "note")
    keep = [i for i in range(len(head)) if i < 5 or any(line[i] for line in lines)]
    return table([head[i] for i in keep], [[line[i] for i in keep] for line in lines])


def _grid_line(results: dict[str, Any], setting: str, name: str) -> list[str]:
    method = results["suite"]["methods"][name]
    grid, note = method["grid"], escaped(method.get("note") or "")
    text = "; ".join(f"{n} {', '.join(map(_value, v))}" for n, v in grid.items())
    tuned = [r for r in results["runs"] if (r["setting"], r["method"], r["phase"]) == (setting, name, "tune")]
    good = [run for run in tuned if problem(run) is None]
    points = math.prod(len(values) for values in grid.values())
    if points > 1 and len(good) < points:
        text += f" ({len(good)} of {points} points have figures)"
    used = list(finals(results, setting)[name].values())
    run = used[0] if used else min(good, key=lambda run: run["validation"]["mse"], default=None)
    if run is None:
        return [label(name), label(text), NONE, NONE, NONE, note]
    pick = point_of(run, grid)
    mse = [run["validation"]["mse"] for run in good if point_of(run, grid) == pick]
    chosen = "; ".join(f"{n} {_value(v)}" for n, v in pick.items())
    edge = NONE if points == 1 else _edges(grid, pick)
    return [label(name), label(text), label(chosen), f"{1e3 * mse[0]:.3f}" if mse else NONE, edge, note]


def _edges(grid: dict[str, list], pick: dict[str, Any]) -> str:
    """At which ends of the numeric ranges a choice lies, bold where a range has more than its two ends."""
    ends, inner = [], False
    for name, values in grid.items():
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < max(2, len(values)):
            continue
        for word, end in (("lowest", min(numbers)), ("highest", max(numbers))):
            if math.isclose(pick[name], end, rel_tol=1e-4):
                ends.append(f"{name} {word}" + (" of two" if len(numbers) == 2 else ""))
                inner |= len(numbers) > 2
    text = ", ".join(ends) or "no"
    return f"**{text}**" if inner else text


def _value(value: Any) -> str:
    """A value of a grid, short; parts of GM-VQ as Type(option=value)."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict) and "type" in value:
        rest = ", ".join(f"{k}={_value(v)}" for k, v in value.items() if k != "type")
        return f"{value['type']}({rest})"
    return value if isinstance(value, str) else json.dumps(value)

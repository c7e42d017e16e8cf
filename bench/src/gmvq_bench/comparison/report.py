"""A results file of `gmvq compare` as Markdown: tables, what the seeds can tell apart, and what is missing."""

from __future__ import annotations

from typing import Any

from ..markdown import table
from ..statistics import mean_interval, paired
from .report_tables import (
    NONE,
    ablation_table,
    best_discrete,
    decimals,
    escaped,
    grid_table,
    label,
    ranking,
    rivals_table,
    setting_table,
    tuned_in,
    tuning_failed,
    why_missing,
    with_interval,
)
from .runs import Finals, best_rival, complete, figures, finals, is_rival, mean_mse, problem, takes_part

#: How far below the best rival's test MSE ours is meant to be, in percent, with a higher perplexity.
TARGET = 10.0
_PACKAGES = ("torch", "gmvq", "vector-quantize-pytorch")


def render(results: dict[str, Any], *, level: str = "##") -> str:
    """The whole report; ``level`` is the heading of its title, parts are one deeper."""
    suite = results["suite"]
    parts = [f"{level} {label(suite['name'])}: {escaped(suite['description'])}", _head(results)]
    for setting in suite["settings"]:
        parts += [f"{level}# {label(setting)}", *_setting(results, setting)]
    parts += [f"{level}# Grids", *_grids(results)]
    parts += [f"{level}# Failed and missing runs", _absent(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: dict[str, Any]) -> str:
    suite, env = results["suite"], results["environment"]
    versions = ", ".join(f"{name} {env[name]}" for name in ("python", *_PACKAGES) if env.get(name))
    threads = f", threads of a run: {env['threads']}" if env.get("threads") else ""
    lines = [
        f"`{results['command'].replace('`', chr(39))}`",
        f"Device: {escaped(str(env['device']))}{threads}. Versions: {versions}.",
    ]
    if results.get("date"):
        lines.append(f"Date: {escaped(str(results['date']))}.")
    if results.get("status"):
        lines.append(f"Status: {escaped(str(results['status']))}.")
    for name in ("device", *_PACKAGES):
        found = sorted(
            {str(run["environment"].get(name)) for run in results["runs"] if run.get("environment")}
        )
        if len(found) > 1:
            lines.append(f"The runs come from more than one {name}: {escaped('; '.join(found))}.")
    lines.append(
        f"Seeds {', '.join(map(str, suite['seeds']))}; weights and learning rate are chosen on the validation split "
        f"with seed {suite['tuning_seed']}, figures are of the test split. ± is half of a 95 % t-interval over seeds. "
        "All methods of a setting share network, data, order, batch size, steps, optimizer and schedule."
    )
    return "\n".join(lines[:1]) + "\n\n" + " ".join(lines[1:])


def _setting(results: dict[str, Any], setting: str) -> list[str]:
    """Caption, table and significance of a setting."""
    suite, runs = results["suite"], finals(results, setting)
    parts = [_caption(results, setting)]
    if suite.get("reference"):
        parts += [ablation_table(suite, runs) or "No final run yet.", _ablation_note(suite, runs)]
        if not any(is_rival(suite, name) for name in runs):
            return parts
    parts += [setting_table(results, setting), _table_note(runs), verdict(suite, runs)]
    comparison = rivals_table(suite, runs)
    if comparison:
        note = (
            "Paired over seeds, intervals of the ratio of means by Fieller, p of the paired t test with Holm's "
            "correction for the number of rivals. The best rival is named by its test MSE, which favours the rivals."
        )
        parts += [comparison, note]
    return parts


def _caption(results: dict[str, Any], setting: str) -> str:
    what, suite = results["suite"]["settings"][setting], results["suite"]
    channels = f"{what['channels']} channel{'s' * (what['channels'] > 1)}"
    text = (
        f"{label(str(what['data']))} at {what['size']} px, {channels}; network {label(str(what['network']))}, "
        f"downsampling {what['downsample']}; K = {what['codebook_size']}, "
        f"D = {what['dim']}; {what['steps']} steps of {what['batch_size']} images."
    )
    if tuned_in(suite, setting) != setting:
        text += f" Rates and weights as tuned in {label(tuned_in(suite, setting))}."
    if what.get("needs"):
        text += f" Needs {escaped(what['needs'])}."
    return text


def _table_note(runs: Finals) -> str:
    """What the columns of KID and speed are of."""
    known = [run for found in runs.values() for run in found.values()]
    text = ""
    extractors = sorted({str(run.get("extractor")) for run in known if run["test"].get("kid") is not None})
    if extractors:
        text += f"KID with features of {escaped(' and of '.join(extractors))}"
        text += "." if len(extractors) == 1 else ": values of different extractors do not compare."
        text += " "
    if any(run.get("steps_per_second") is not None for run in known):
        text += "Steps/s are of runs that may have shared the machine; speed is measured by `gmvq bench`."
    return text.rstrip()


def _ablation_note(suite: dict[str, Any], runs: Finals) -> str:
    tested = sum(1 for name in runs if runs[name] and name != suite["reference"])
    return (
        f"Each variant changes {label(suite['reference'])} in one respect; differences are paired over seeds, bold "
        f"where the 95 % interval leaves out 0, which {tested} variants without any effect would do "
        f"{0.05 * tested:.1f} times by chance. p is corrected for their number by Holm."
    )


def verdict(suite: dict[str, Any], runs: Finals) -> str:
    """Whether ours beats the best rival by the target, in words that also say when it loses.

    Where the best rival was given another loss than its own, the best one as published is named as well.
    """
    ours = suite["ours"]
    mine, rival = runs.get(ours, {}), best_rival(runs, suite)
    if not mine:
        return f"No verdict: {label(ours)} has no final run here."
    if rival is None:
        return "No verdict: no rival has all its seeds."
    text = _against(suite, runs, rival, "the best rival")
    lower = [n for n in runs if is_rival(suite, n) and runs[n] and not complete(suite, runs[n])]
    lower = [label(n) for n in lower if mean_mse(runs[n]) < mean_mse(runs[rival])]
    if lower:
        text += f" Lower so far, but left out for want of all seeds: {', '.join(lower)}."
    published = {n: found for n, found in runs.items() if suite["methods"][n].get("loss", "own") == "own"}
    other = best_rival(published, suite)
    if other not in (None, rival):
        text += f" With their own losses: {_against(suite, runs, other, 'the best rival as published')}"
    return text


def _against(suite: dict[str, Any], runs: Finals, rival: str, called: str) -> str:
    """Ours against one rival, in a sentence."""
    ours = suite["ours"]
    test = paired(figures(runs[ours], "mse"), figures(runs[rival], "mse"))
    a, b = (_mean(runs[name], "perplexity") for name in (ours, rival))
    size = f"{abs(test.percent):.1f} %"
    if test.percent_interval is not None:
        low, high = test.percent_interval
        size += f" (95 % interval of the difference: {low:+.1f} to {high:+.1f} %)"
    who = f"{called}, {label(rival)},"
    if test.percent_interval is not None and not test.significant:
        text = f"{label(ours)} and {who} cannot be told apart: MSE {'below' if test.percent < 0 else 'above'} by {size}"
    elif test.percent < 0:
        text = f"{label(ours)} is below {who} by {size} of MSE"
    else:
        text = f"{label(ours)} **loses**: its MSE is above that of {who} by {size}"
    outcome = _outcome(test.percent, test.percent_interval, a > b, complete(suite, runs[ours]))
    return f"{text}; perplexity {a:.1f} against {b:.1f}: **target of {TARGET:.0f} % {outcome}**."


def _outcome(percent: float, interval: tuple[float, float] | None, wider: bool, full: bool) -> str:
    """Met or not met, and what stands in the way."""
    if not full:
        return "open: ours lacks seeds"
    if interval is None:
        return "open: one seed has no interval"
    if percent > -TARGET:
        return "not met"
    if not wider:
        return "not met: the perplexity is not higher"
    if interval[1] > -TARGET:
        return f"met by the mean, while the interval reaches {interval[1]:+.1f} %"
    return "met"


def _mean(runs: dict[int, dict[str, Any]], name: str) -> float:
    values = figures(runs, name)
    return mean_interval(values.values())[0] if values else float("nan")


def _grids(results: dict[str, Any]) -> list[str]:
    suite = results["suite"]
    parts = [
        "Every point of a grid is trained once, with the tuning seed; the lowest validation MSE is chosen. A choice at "
        "an edge may have a better neighbour outside; a range of two values has only edges."
    ]
    for setting in dict.fromkeys(tuned_in(suite, name) for name in suite["settings"]):
        same = [label(n) for n in suite["settings"] if n != setting and tuned_in(suite, n) == setting]
        also = f", used in {', '.join(same)} too" if same else ""
        parts += [f"Tuned in {label(setting)}{also}:", grid_table(results, setting)]
    return parts


def _absent(results: dict[str, Any]) -> str:
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
    return "\n".join(lines) or "None: every method has all its seeds in every setting."


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

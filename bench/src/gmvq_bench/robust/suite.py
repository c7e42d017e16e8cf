"""The suites: their settings and methods, single runs with a key for their records, and the results file."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gmvq
from gmvq.environment import version_of
from gmvq.reading import read_text

from ..comparison.runs import environment_of
from ..results import rounded
from .design import Setting, draw, draw_small, from_dict
from .methods import ABLATIONS, METHODS, OURS, QUARTER, is_ours
from .train import train

Run = dict[str, Any]
KIND = "gmvq compare robust"
SUITES = {
    "robust": "48 networks and recipes drawn at random; the layer and rivals as they come, nothing tuned",
    "robust-small": "12 of them, the cheap ones",
    "robust-fresh": "48 others, of another seed, for confirming what was decided on the first",
    "robust-ablations": "one part of the layer taken away at a time, in the settings of robust-small",
}
#: Of networks, data and loop; another number makes every run anew.
PROTOCOL = 1


@dataclass(frozen=True)
class Selection:
    """The settings to run, and those of missing data, with the reason for each data set."""

    settings: list[Setting]
    left_out: list[Setting]
    reasons: dict[str, str]


def settings_of(suite: str) -> list[Setting]:
    """All settings of a suite."""
    small = suite in ("robust-small", "robust-ablations")
    return draw_small() if small else draw(int(suite == "robust-fresh"))


def select(
    suite: str, missing: dict[str, str], parity: str | None = None, names: list[str] | None = None
) -> Selection:
    """The settings of a suite of a parity, "even" or "odd", and with these names or numbers; default: all.

    ``missing`` are the data sets that the machine does not have, with the reason.

    Raises:
        ValueError: there is no such setting.
    """
    settings = settings_of(suite)
    called = {name: s for s in settings for name in (s.name, str(s.number), f"{s.number:02d}")}
    unknown = [name for name in names or () if name not in called]
    if unknown:
        raise ValueError(
            f"suite {suite} has no setting {', '.join(unknown)}; it has {', '.join(s.name for s in settings)}"
        )
    named = [called[name] for name in names or called]
    wanted = [s for s in settings if s in named and parity in (None, s.parity)]
    left_out = [s for s in wanted if s.data in missing]
    reasons = {s.data: missing[s.data] for s in left_out}
    return Selection([s for s in wanted if s.data not in missing], left_out, reasons)


def chosen_methods(suite: str, names: list[str] | None) -> list[str]:
    """The methods of a suite by name, and ours among them; default: all.

    Raises:
        ValueError: there is no such method.
    """
    methods = (OURS, *ABLATIONS) if suite == "robust-ablations" else METHODS
    unknown = [name for name in names or () if name not in methods]
    if unknown:
        raise ValueError(f"{suite} has no method {', '.join(unknown)}; it has {', '.join(methods)}")
    return [name for name in methods if not names or name in names or name == OURS]


def runs_of(settings: Iterable[Setting], methods: Iterable[str], seeds: int) -> list[Run]:
    """Every run, setting by setting; the methods of a quarter only there."""
    wanted = list(methods)
    return [
        {
            "setting": setting.name,
            "method": method,
            "phase": "final",
            "options": {},
            "lr": setting.lr,
            "seed": seed,
            "design": setting.to_dict(),
            "protocol": PROTOCOL,
        }
        for setting in settings
        for method in wanted
        if setting.more_rivals or method not in QUARTER
        for seed in range(seeds)
    ]


def key_of(run: Run) -> str:
    """Digest of a run and of the code that it tries: our layer's source, or the version of the rivals' package."""
    code = _source_digest() if is_ours(run["method"]) else version_of("vector-quantize-pytorch")
    same = {name: value for name, value in run.items() if name not in ("setting", "options")}
    text = json.dumps({**same, "code": code}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _source_digest() -> str:
    """Of the code that the layer runs, without comments and docstrings."""
    root = Path(gmvq.__file__).parent
    digest = hashlib.sha256()
    for part in ("functional", "quantizers"):
        for file in sorted((root / part).rglob("*.py")):
            digest.update(_without_words(read_text(file)).encode())
    return digest.hexdigest()


def _without_words(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.AST(body=[ast.Expr(value=ast.Constant(value=str())), *_]):
                del node.body[0]  # pyright: ignore[reportAttributeAccessIssue]
    return ast.dump(tree)


def train_one(run: Run, device: str) -> dict[str, Any]:
    """The figures of a run; networks this small train on the CPU."""
    figures = train(from_dict(run["design"]), run["method"], run["seed"])
    if figures["error"]:
        return figures
    test = {name: figures.pop(name) for name in ("mse", "perplexity", "usage", "positions")}
    return {"test": test, "validation": {"mse": figures.pop("validation_mse")}, **figures}


def assemble(
    suite: str, selection: Selection, records: list[dict[str, Any]], *, command: str, date: str
) -> dict[str, Any]:
    """The content of a results file, in which settings stand once."""
    left_out = {"settings": [s.name for s in selection.left_out], "reasons": selection.reasons}
    dropped = ("design", "protocol", "where", "options", "phase")
    return {
        "kind": KIND,
        "suite": {"name": suite, "description": SUITES[suite]},
        "command": command,
        "date": date,
        "environment": environment_of(records),
        "left_out": left_out,
        "settings": {s.name: s.to_dict() for s in selection.settings},
        "runs": [rounded({k: v for k, v in record.items() if k not in dropped}) for record in records],
    }

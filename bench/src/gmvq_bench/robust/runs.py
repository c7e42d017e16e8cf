"""The runs of a design as the worker processes of ``compare.execute`` make them, each with a key for its record."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import gmvq
from gmvq.reading import read_text

from ..results import package_version
from .ablations import ABLATIONS
from .methods import OURS, methods_of
from .setting import Setting, from_dict
from .train import train

Run = dict[str, Any]
#: Of networks, data and loop; another number makes every run anew.
PROTOCOL = 1


def runs_of(settings: Iterable[Setting], methods: Iterable[str], seeds: int) -> list[Run]:
    """Every run, setting by setting; methods that a setting does not have are left out."""
    wanted = list(methods)
    return [
        _run(setting, method, seed)
        for setting in settings
        for method in wanted
        if method in methods_of(setting) or method in ABLATIONS
        for seed in range(seeds)
    ]


def _run(setting: Setting, method: str, seed: int) -> Run:
    return {
        "setting": setting.name,
        "method": method,
        "phase": "final",
        "options": {},
        "lr": setting.lr,
        "seed": seed,
        "design": setting.to_dict(),
        "protocol": PROTOCOL,
    }


def key_of(run: Run) -> str:
    """Digest of a run and of the code that it tries: our layer's source, or the version of the rivals' package."""
    ours = run["method"] in OURS or run["method"] in ABLATIONS
    code = _source_digest() if ours else package_version("vector-quantize-pytorch")
    same = {name: value for name, value in run.items() if name not in ("setting", "options")}
    text = json.dumps({**same, "code": code}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train_one(run: Run, device: str) -> dict[str, Any]:
    """The figures of a run; networks this small train on the CPU."""
    figures = train(from_dict(run["design"]), run["method"], run["seed"])
    test = {
        name: figures.pop(name) for name in ("mse", "perplexity", "usage", "positions") if name in figures
    }
    if not test:
        return figures
    return {"test": test, "validation": {"mse": figures.pop("validation_mse")}, **figures}


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
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            del body[0]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

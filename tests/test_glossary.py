"""The glossary knows every public name, and names nothing that does not exist."""

from __future__ import annotations

import ast
import builtins
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gmvq

ROOT = Path(gmvq.__file__).parent
REPOSITORY = ROOT.parents[1]
BENCH = REPOSITORY / "bench" / "src" / "gmvq_bench"
GLOSSARY = REPOSITORY / "docs" / "glossary.md"
PACKAGES = sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file())
_FORWARD, _, _BACK = GLOSSARY.read_text(encoding="utf-8").partition("\n# From a name to its meaning\n")
#: Parts of quoted code that are no names of ours: tensor methods, the locals of an example, symbols of a formula.
NOT_OURS = {"softmax", "numel", "w", "k", "S", "quantizer", "out", "docs"}


@cache
def defined() -> frozenset[str]:
    """Every name that the two packages define: modules, classes, functions, arguments, attributes, words as strings."""
    files = [file for root in (ROOT, BENCH) for file in root.rglob("*.py")]
    names = {part for file in files for part in (file.stem, file.parent.name, file.name)}
    for file in files:
        names.update(_names(ast.parse(file.read_text(encoding="utf-8"))))
    return frozenset(names)


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def quoted(text: str) -> list[str]:
    """What stands between backquotes, outside of formulas."""
    return re.findall(r"`([^`\n]+)`", text)


def missing(code: str) -> list[str]:
    """The names in a piece of quoted code that do not exist; a file has to be in the repository."""
    if "/" in code:
        return [] if any((root / code).exists() for root in (REPOSITORY, ROOT)) else [code]
    known = defined() | NOT_OURS | set(dir(builtins))
    return [name for name in re.findall(r"[A-Za-z_]\w*", code) if name not in known]


@pytest.mark.parametrize("name", gmvq.__all__)
def test_every_public_name_has_a_meaning(name: str) -> None:
    rows = [line.split("|")[1] for line in _BACK.splitlines() if line.startswith("| `")]
    assert any(name in quoted(row) for row in rows), f"{name} is missing in the tables from names to meanings"


@pytest.mark.parametrize("part", [_FORWARD, _BACK], ids=["from symbols", "from names"])
def test_every_name_exists(part: str) -> None:
    wrong = {code: names for code in quoted(part) if (names := missing(code))}
    assert not wrong, f"the glossary names what does not exist: {wrong}"


PATHS = sorted({code for code in quoted(_FORWARD + _BACK) if re.fullmatch(r"\w+(\.\w+)+", code)})


@pytest.mark.parametrize("path", [path for path in PATHS if path.split(".")[0] in (*PACKAGES, *gmvq.__all__)])
def test_every_path_leads_somewhere(path: str) -> None:
    first, name = path.split(".")[:2]
    if first in gmvq.__all__:
        kind = getattr(gmvq, first)
        assert name in _members(kind), f"{first} has no {name}"
        return
    pytest.importorskip(f"gmvq.{first}", exc_type=ImportError)
    pkgutil.resolve_name(f"gmvq.{path}")


def _members(kind: type) -> set[str]:
    """Attributes of a class and of its instances, and its arguments."""
    own = [inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith("gmvq.")]
    assigned = re.findall(r"self\.(\w+)|register_\w+\(\"(\w+)\"", "\n".join(own))
    return {*dir(kind), *inspect.signature(kind).parameters, *(name for pair in assigned for name in pair)}


def test_what_does_not_exist_is_found() -> None:
    assert missing("Estimator.sample") == []
    assert missing("Estimator.no_such_name") == ["no_such_name"]
    assert missing("functional/gauge.py") == []
    assert missing("functional/no_such.py") == ["functional/no_such.py"]

"""Dependencies point one way, heavy packages are imported where they are used, and importing has no effects.

The layers and the circles are contracts of import-linter in pyproject.toml. What it cannot say stands here: where in a
file a package is imported.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gmvq

ROOT = Path(gmvq.__file__).parent
CORE = {
    "types",
    "errors",
    "files",
    "environment",
    "functional",
    "quantizers",
    "objectives",
    "models",
    "convert",
}
BASE = {"torch", "numpy", "safetensors"}
#: Extras that a package may import at module level; the base dependencies may be imported anywhere.
AT_MODULE_LEVEL = {
    "training": {"lightning"},
    "tokens": {"msgspec"},
    "cli": {"lightning", "jsonargparse"},
    "prior": {"transformers", "lightning"},
    "app": {"gradio"},
}
#: The GPU kernels, imported by the dispatcher when they run; torch brings triton wherever they can.
KERNELS = "triton_"


@pytest.mark.parametrize("contract", ["packages", "layers", "bench_layers", "acyclic"])
def test_contract(contract: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    linter = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT.parents[1])
    monkeypatch.setattr(sys, "path", [*sys.path])
    kept = linter.lint_imports(limit_to_contracts=(contract,), no_cache=True, no_logo=True)
    assert kept == linter.EXIT_STATUS_SUCCESS, capsys.readouterr().out


@dataclass(frozen=True)
class Import:
    """One imported module as an absolute dotted name; ``top``: run when the file is imported."""

    file: Path
    line: int
    module: str
    top: bool

    @property
    def package(self) -> str:
        """The package or module under gmvq that the import stands in."""
        return self.file.relative_to(ROOT).with_suffix("").parts[0]

    @property
    def extra(self) -> str | None:
        """The package imported, where it is neither gmvq nor Python's own nor the kernels' triton."""
        name = self.module.split(".")[0]
        kernel = name == "triton" and self.file.name.startswith(KERNELS)
        return None if name == "gmvq" or name in sys.stdlib_module_names or kernel else name

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def imports_of(file: Path) -> Iterator[Import]:
    """Every import statement of a file but those for type checkers."""
    package = ("gmvq", *file.relative_to(ROOT).parts[:-1])
    for node, top in walk(ast.parse(file.read_text(encoding="utf-8")), True):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            # ``from .. import errors`` names modules in the list of names
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "gmvq" else [module]
        for name in names:
            yield Import(file, node.lineno, name, top)


def walk(node: ast.AST, top: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements below a node, and whether they run when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, top
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield from walk(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


ALL = [found for file in sorted(ROOT.rglob("*.py")) for found in imports_of(file)]


def test_the_walk_sees_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "models" / "x.py"
    file.parent.mkdir()
    file.write_text(
        "import torch.nn as nn\nfrom .. import errors\nfrom ..functional.mixture import a\nfrom . import nets\n"
        "if TYPE_CHECKING:\n    import PIL\ntry:\n    import lightning\nexcept ImportError:\n    import rich\n"
        "def f():\n    with g():\n        from ..cli import main\nclass A:\n    import scipy\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [(found.module, found.top) for found in imports_of(file)] == [
        ("torch.nn", True),
        ("gmvq.errors", True),
        ("gmvq.functional.mixture", True),
        ("gmvq.models", True),
        ("lightning", True),
        ("rich", True),
        ("gmvq.cli", False),
        ("scipy", True),
    ]


def test_nothing_goes_through_the_public_package() -> None:
    """``import gmvq`` or ``from gmvq import GaussianMixtureVQ`` inside would hide where a name comes from."""
    public = {"gmvq", *(f"gmvq.{name}" for name in gmvq.__all__)}
    assert not [str(found) for found in ALL if found.module in public]


def test_extras_are_imported_where_they_are_used() -> None:
    """So that their absence is an error that names the extra; the core uses none, not even inside functions."""
    allowed = {found: BASE | AT_MODULE_LEVEL.get(found.package, set()) | {None} for found in ALL if found.top}
    assert not [str(found) for found, names in allowed.items() if found.extra not in names]
    core = [found for found in ALL if found.package in CORE]
    assert not [str(found) for found in core if found.extra not in {None, "packaging"} | BASE]


def test_kernels_are_imported_when_they_run_only() -> None:
    users = [i for i in ALL if i.module.split(".")[-1].startswith(KERNELS) or "triton" in i.module]
    assert not [str(i) for i in users if not i.file.name.startswith(KERNELS) and i.top]
    assert users


def test_lightning_stays_in_what_trains() -> None:
    lightning = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
    users = [found for found in ALL if found.extra in lightning]
    assert not [str(found) for found in users if found.package not in {"training", "cli", "prior"}]
    assert users


def test_the_product_never_speaks_of_the_bench() -> None:
    assert not [file for file in ROOT.rglob("*.py") if "gmvq_bench" in file.read_text(encoding="utf-8")]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, warnings, logging; before = dict(warnings=list(warnings.filters), hooks=list(sys.meta_path),"
        " handlers=list(logging.root.handlers)); import gmvq; "
        "assert not {'torch', 'numpy', 'safetensors', 'lightning'} & set(sys.modules); "
        "assert before == dict(warnings=list(warnings.filters), hooks=list(sys.meta_path),"
        " handlers=list(logging.root.handlers)); assert 'GaussianMixtureVQ' in dir(gmvq)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""

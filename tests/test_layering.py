"""Dependencies point one way, heavy packages are imported where they are used, and importing has no effects."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import gmvq

ROOT = Path(gmvq.__file__).parent

#: A module may import its own package and any package on a lower level, never its own level's others.
LEVELS: dict[str, int] = {
    "types": 0,
    "errors": 0,
    "files": 0,
    "environment": 0,
    "quiet": 0,
    "progress": 1,
    "functional": 1,
    "quantizers": 2,
    "objectives": 3,
    "models": 3,
    "baselines": 3,
    "data": 4,
    "evaluation": 4,
    "export": 4,
    "training": 5,
    "tokens": 6,
    "bench": 6,
    "prior": 7,
    "compare": 7,
    "rate_distortion": 8,
    "cli": 9,
    "app": 9,
}
CORE = {"types", "errors", "files", "environment", "functional", "quantizers", "objectives", "models"}
#: What may be imported at module level: the base dependencies anywhere; extras only by these packages.
BASE = {"torch", "numpy", "safetensors"}
AT_MODULE_LEVEL: dict[str, set[str]] = {
    "training": {"lightning"},
    "cli": {"lightning", "jsonargparse"},
    "baselines": {"vector_quantize_pytorch"},
    "tokens": {"msgspec"},
    "prior": {"transformers", "lightning"},
    "app": {"gradio"},
}
USES_LIGHTNING = {"training", "cli", "prior"}
#: The GPU kernels, imported by the dispatcher when they run; torch brings triton wherever they can.
TRITON_FILES = "triton_"


@dataclass(frozen=True)
class Import:
    """One imported module as an absolute dotted name."""

    file: Path
    line: int
    module: str
    at_module_level: bool
    for_types: bool

    @property
    def layer(self) -> str:
        """The package or module under gmvq that the import stands in."""
        parts = self.file.relative_to(ROOT).with_suffix("").parts
        return parts[0]

    @property
    def target(self) -> str | None:
        """The package or module under gmvq that is imported; None for gmvq itself and for others."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "gmvq" and len(parts) > 1 else None

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def imports_of(file: Path) -> Iterator[Import]:
    """Every import statement of a file: where it stands and what it means in absolute names."""
    package = ("gmvq", *file.relative_to(ROOT).parts[:-1])
    for node, top, for_types in walk(ast.parse(file.read_text(encoding="utf-8")).body, True, False):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            # ``from .. import errors`` and ``from gmvq import errors`` name modules in the list of names
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "gmvq" else [module]
        for name in names:
            yield Import(file, node.lineno, name, top, for_types)


def walk(
    body: list[ast.stmt], top: bool, for_types: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Import statements with two facts: run on import of the file, and seen by type checkers only."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, top, for_types
            continue
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, name, [])
            nested = [c for child in children for c in (child.body if hasattr(child, "pattern") else [child])]
            flat = [s for c in nested for s in (c.body if isinstance(c, ast.ExceptHandler) else [c])]
            yield from walk(flat, top and not function, for_types or (typing and name == "body"))


ALL = [found for file in sorted(ROOT.rglob("*.py")) for found in imports_of(file)]
INSIDE = [found for found in ALL if found.file.parent != ROOT or found.layer in LEVELS]


def test_the_parser_sees_every_kind_of_import(tmp_path, monkeypatch) -> None:
    file = tmp_path / "models" / "x.py"
    file.parent.mkdir()
    file.write_text(
        "import torch.nn as nn\nfrom .. import errors\nfrom ..functional.mixture import a\nfrom . import nets\n"
        "from gmvq.data import b\nif TYPE_CHECKING:\n    import PIL\n"
        "try:\n    import lightning\nexcept ImportError:\n    import rich\n"
        "def f():\n    with g():\n        from ..cli import main\n"
        "class A:\n    import scipy\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = [(i.module, i.at_module_level, i.for_types) for i in imports_of(file)]
    assert found == [
        ("torch.nn", True, False),
        ("gmvq.errors", True, False),
        ("gmvq.functional.mixture", True, False),
        ("gmvq.models", True, False),
        ("gmvq.data", True, False),
        ("PIL", True, True),
        ("lightning", True, False),
        ("rich", True, False),
        ("gmvq.cli", False, False),
        ("scipy", True, False),
    ]
    assert [i.target for i in imports_of(file)][1:5] == ["errors", "functional", "models", "data"]


def test_every_package_has_a_level() -> None:
    names = {p.stem for p in ROOT.iterdir() if (p.suffix == ".py" or (p / "__init__.py").exists())}
    unknown = names - LEVELS.keys() - {"__init__", "__main__"}
    assert not unknown, f"give {sorted(unknown)} a level in {Path(__file__).name}"


def test_dependencies_point_one_way() -> None:
    wrong = [
        str(found)
        for found in INSIDE
        if found.target in LEVELS
        and found.target != found.layer
        and LEVELS[found.target] >= LEVELS[found.layer]
    ]
    assert not wrong, "\n".join(wrong)
    assert any(found.target == "functional" and found.layer == "quantizers" for found in INSIDE), "found any"


def test_no_file_of_a_room_imports_itself_through_others() -> None:
    """Imports inside functions and for types count too."""
    rooms = {"tokens", "evaluation", "models", "export", "prior", "training", "cli"}
    graph: dict[str, set[str]] = {}
    for found in INSIDE:
        name = ".".join(("gmvq", *found.file.relative_to(ROOT).with_suffix("").parts))
        is_file = (ROOT.parent / (found.module.replace(".", "/") + ".py")).is_file()
        if found.layer in rooms and found.file.name != "__init__.py" and is_file:
            graph.setdefault(name, set()).add(found.module)
    assert len(list(TopologicalSorter(graph).static_order())) > 50  # it raises for a circle


def test_nothing_goes_through_the_public_package() -> None:
    """``import gmvq`` or ``from gmvq import GaussianMixtureVQ`` inside would hide where a name comes from."""
    wrong = [
        str(found)
        for found in INSIDE
        if found.module == "gmvq" or (found.target is not None and found.target in gmvq.__all__)
    ]
    assert not wrong, "\n".join(wrong)


def third_party(found: Import) -> str | None:
    name = found.module.split(".")[0]
    return None if name == "gmvq" or name in sys.stdlib_module_names else name


def is_kernel(found: Import) -> bool:
    return third_party(found) == "triton" and found.file.name.startswith(TRITON_FILES)


def test_module_level_imports_are_base_dependencies() -> None:
    """Extras are imported where they are used, so that their absence is an error that names the extra."""
    wrong = [
        str(found)
        for found in INSIDE
        if found.at_module_level
        and not found.for_types
        and third_party(found) is not None
        and not is_kernel(found)
        and third_party(found) not in BASE | AT_MODULE_LEVEL.get(found.layer, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_imports_no_extra_anywhere() -> None:
    """Not even inside functions, where ``errors.require`` has to be used."""
    wrong = [
        str(found)
        for found in INSIDE
        if found.layer in CORE
        and not is_kernel(found)
        and third_party(found) not in {None, "packaging"} | BASE
    ]
    assert not wrong, "\n".join(wrong)


def test_kernels_are_imported_when_they_run_only() -> None:
    users = [i for i in INSIDE if i.module.split(".")[-1].startswith(TRITON_FILES) or "triton" in i.module]
    outside = [str(i) for i in users if not i.file.name.startswith(TRITON_FILES) and i.at_module_level]
    assert not outside, "\n".join(outside)
    assert users


def test_the_bench_asks_for_its_peers_by_require() -> None:
    """A machine without them measures what it has: no import statement, not even inside functions."""
    peers = {"vector_quantize_pytorch", "faiss"}
    assert not [str(found) for found in INSIDE if found.layer == "bench" and third_party(found) in peers]


def test_lightning_stays_in_training() -> None:
    lightning = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
    wrong = [
        str(found)
        for found in INSIDE
        if third_party(found) in lightning and found.layer not in USES_LIGHTNING
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_package_imports_nothing_heavy() -> None:
    init = [found for found in ALL if found.file == ROOT / "__init__.py" and not found.for_types]
    assert all(third_party(found) is None and found.module != "gmvq" for found in init), [
        str(i) for i in init
    ]
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

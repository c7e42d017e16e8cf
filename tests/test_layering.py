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
    "reading",
    "screen",
    "environment",
    "functional",
    "quantizers",
    "objectives",
    "models",
    "convert",
    "compat",
}
BASE = {"torch", "numpy", "safetensors"}
#: Extras that a package may import at module level; the base dependencies may be imported anywhere.
AT_MODULE_LEVEL = {
    "training": {"lightning", "msgspec"},
    "tokens": {"msgspec"},
    "cli": {"lightning", "jsonargparse"},
    "prior": {"transformers", "lightning", "msgspec"},
    "app": {"gradio"},
}
#: The GPU kernel, imported by the search when it runs; torch brings triton wherever it can.
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
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


#: Methods that open a file by themselves, and the two modules that may.
OPENERS = {"read_text", "read_bytes", "write_text", "write_bytes", "touch"}
IN_AND_OUT = {"gmvq/reading.py", "gmvq/files.py"}
#: Functions of libraries that read or write a file, by the file of this package that calls them. Each gets a stream of
#: ``reading`` or ``files``, a name that ``check_plain`` has looked at, or the temporary name of ``atomic_write``.
LIBRARIES = {
    "np.lib.format.open_memmap": {"gmvq/data/arrays.py"},
    "pil.open": {"gmvq/data/decode.py"},
    "Image.open": {"gmvq_bench/rate_distortion/codecs.py"},
    "fonts.TTFont": {"gmvq/data/emoji.py"},
    "soundfile.SoundFile": {"gmvq/data/audio.py"},
    "wave.open": {"gmvq/data/audio.py"},
    "tables.read_csv": {"gmvq/data/csv_table.py"},
    "parquet.read_metadata": {"gmvq/data/tables.py", "gmvq/data/limits.py"},
    "parquet.read_schema": {"gmvq/data/tables.py", "gmvq/tokens/shard.py"},
    "parquet.read_table": {"gmvq/tokens/shard.py"},
    "parquet.ParquetFile": {"gmvq/data/limits.py", "gmvq/data/stream.py"},
    "fsspec.url_to_fs": {"gmvq/data/stream.py"},
    "parquet.ParquetWriter": {"gmvq/tokens/writing.py"},
    "arrow.memory_map": {"gmvq/data/limits.py", "gmvq/data/shards.py"},
    "torch.load": {
        "gmvq/training/checkpoint.py",
        "gmvq/evaluation/extractors.py",
    },
    "torch.save": {"gmvq/training/callbacks.py"},
    "safe_open": {"gmvq/models/weights.py"},
    "load_file": {"gmvq/models/weights.py"},
    "zipfile.ZipFile": {"gmvq/reading.py"},
    "os.open": {"gmvq/reading.py", "gmvq/files.py", "gmvq/tokens/folder.py", "gmvq/cli/main.py"},
    "torch.export.save": {"gmvq/export/formats.py"},
    "torch.export.load": {"gmvq/export/formats.py"},
    "onnx.save": {"gmvq/export/formats.py"},
    "runtime.InferenceSession": {"gmvq/export/formats.py"},
    "datasets.load_dataset": {"gmvq/data/tables.py"},
    "Dataset.from_parquet": {"gmvq/data/tables.py"},
}
#: Names that would be in the list above if somebody called them.
WOULD_BE = {
    *(
        "np.load",
        "np.save",
        "save_file",
        "np.fromfile",
        "np.loadtxt",
        "np.genfromtxt",
        "io.open",
        "gzip.open",
        "zipfile.Path",
        "pickle.load",
    ),
    *(
        "torch.jit.load",
        "yaml.load",
        "tarfile.open",
        "lzma.open",
        "bz2.open",
        "parquet.write_table",
        "sqlite3.connect",
    ),
}


def calls_that_open(source: str) -> list[tuple[int, str]]:
    """Line and name of every call that opens a file, by its name."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        # A file is opened with a mode; our own methods called open take none.
        mode = last == "open" and any(
            isinstance(value, ast.Constant) and str(value.value).strip("+btU") in {"r", "w", "a", "x"}
            for value in (*node.args[:2], *(word.value for word in node.keywords if word.arg == "mode"))
        )
        known = next(
            (key for key in (*LIBRARIES, *WOULD_BE) if name == key or name.endswith(f".{key}")), None
        )
        given = (*node.args, *(word.value for word in node.keywords))
        to_memory = any(
            "BytesIO" in ast.unparse(value) or ast.unparse(value) in {"buffer", "sink"} for value in given
        )
        method = last in OPENERS and isinstance(node.func, ast.Attribute) and not name.startswith("reading.")
        if name == "open" or (mode and known is None) or method:
            found.append((node.lineno, "open" if name == "open" or mode else f".{last}"))
        elif known and not (to_memory and known in WOULD_BE):
            found.append((node.lineno, known))
    return found


def test_files_are_opened_in_two_modules_only() -> None:
    """One for reading, one for writing; any other call that opens a file is a library's, and listed."""
    bench = ROOT.parents[1] / "bench" / "src"
    wrong, seen = [], set()
    for base in (ROOT.parent, bench):
        for file in sorted(base.rglob("*.py")):
            name = file.relative_to(base).as_posix()
            for line, call in calls_that_open(file.read_text(encoding="utf-8")):
                seen.add((name, call))
                own = name in IN_AND_OUT and call not in LIBRARIES
                if not own and name not in LIBRARIES.get(call, ()):
                    wrong.append(f"{name}:{line} calls {call}: use gmvq.reading or gmvq.files")
    assert not wrong, "\n".join(wrong)
    unused = [(file, call) for call, files in LIBRARIES.items() for file in files if (file, call) not in seen]
    assert not unused


def test_the_search_sees_every_kind_of_opening() -> None:
    code = (
        "open('a')\nPath('a').open('rb')\nfile.open(mode='w')\nPath('a').read_text()\nx.y.write_bytes(b'')\n"
    )
    code += "np.load('a')\ndata.open()\nnp.save(buffer, a)\nnp.save('a', a)\ntorch.jit.load('a')\nread_text('a')\n"
    assert [line for line, _ in calls_that_open(code)] == [1, 2, 3, 4, 5, 6, 9, 10]

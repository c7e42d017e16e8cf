"""The pages for newcomers name files, tests and rooms that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import gmvq

ROOT = Path(gmvq.__file__).parents[2]
PLACES = (ROOT, ROOT / "src" / "gmvq", ROOT / "docs" / "decisions")
_FIRST = ("CONTRIBUTING.md", "SECURITY.md", "docs/reliability.md")
PAGES = [*map(ROOT.joinpath, _FIRST), *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
#: A path in backquotes: from the root, from src/gmvq, or a page beside the page.
_FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|yaml|yml|toml))`")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    files = [file for file in _FILE.findall(text) if "/" in file]
    assert [file for file in files if not any((place / file).is_file() for place in PLACES)] == []
    cases = re.findall(r"`((?:[\w-]+/)+test_\w+\.py)::(test_\w+)`", text)
    assert [(file, name) for file, name in cases if f"def {name}(" not in _text(ROOT / file)] == []
    assert len(cases) == text.count("::test_")
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests]
    assert named == []


@pytest.mark.parametrize("contract", ["layers", "bench_layers"])
def test_the_map_of_rooms_is_that_of_the_contracts(contract: str) -> None:
    layers = {one["id"]: one for one in TOOLS["importlinter"]["contracts"]}[contract]["layers"]
    wanted = [layer.split(" | ") for layer in layers if layer != "__main__"]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    both = text.partition("## The rooms")[2].split("```")[1].strip().split("\n\n")
    lines = both[contract == "bench_layers"].splitlines()
    shown = [re.split(r"\s{2,}", line[14:].strip())[0].split(" | ") for line in lines]
    assert [sorted(line) for line in shown] == [sorted(line) for line in wanted]


@pytest.mark.parametrize(("walk", "files", "names"), [(1, 7, 11), (2, 7, 12), (3, 7, 10)])
def test_a_walk_has_ten_lines_and_what_it_announces(walk: int, files: int, names: int) -> None:
    """Its introducing sentence counted: how many files and names it leads through, and one climb, its last line."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Three walks\n")[2].partition("\n## ")[0]
    lines = [line for line in re.split(r"\n(?=\*\*)", section)[walk].splitlines() if line]
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 128
    words = {7: "Seven", 10: "ten", 11: "eleven", 12: "twelve"}
    assert f"{words[files]} files" in lines[0]
    assert f"one climb, {words[names]} names" in lines[0]
    assert "The climb: " in lines[-1]
    room = "quantizers/" if "files of `quantizers`" in lines[0] else ""
    walked = {file for file in _FILE.findall("\n".join(lines[1:])) if "/" in file and file.startswith(room)}
    assert len(walked) == files
    assert len(re.findall(r"\*\*`\w+`\*\*", "\n".join(lines))) == names


def test_no_file_has_more_than_300_lines() -> None:
    """Of packages, tests, examples and docs."""
    folders = ("src", "bench", "models", "tests", "examples", "docs")
    found = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert [str(file) for file in found if _text(file).count("\n") > 300] == []


def test_no_function_has_more_than_50_lines() -> None:
    """Without docstring and signature; branches, statements and returns are ruff's matter."""
    large = []
    for file in [*ROOT.glob("src/gmvq/**/*.py"), *ROOT.glob("bench/src/**/*.py")]:
        for node in ast.walk(ast.parse(_text(file))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                large += [f"{file}:{node.lineno}"] if lines > 50 else []
    assert large == []


def test_the_strict_files_exist() -> None:
    assert [place for place in TOOLS["pyright"]["strict"] if not (ROOT / place).exists()] == []

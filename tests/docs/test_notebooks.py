"""The notebooks of the docs run from top to bottom, and become pages with their outputs."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import gmvq

for _package in (
    "jupytext",
    "nbclient",
    "ipykernel",
    "vector_quantize_pytorch",
    "lightning",
    "transformers",
    "sklearn",
):
    pytest.importorskip(_package)

ROOT = Path(gmvq.__file__).parents[2] / "docs"
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def site_module(name: str) -> Any:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", ROOT / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_notebook_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, with 80 steps where it trains for more, as codes begin after 50."""
    # The trained models, where they are not installed.
    monkeypatch.setenv("PYTHONPATH", str(ROOT.parent / "models" / "src"), prepend=os.pathsep)
    short = tmp_path / source.name
    text = source.read_text(encoding="utf-8")
    short.write_text(re.sub(r'(steps(?:"?: |=|: int = ))\d+', r"\g<1>80", text), encoding="utf-8")
    page = site_module("notebooks").to_page(short, execute=True)
    assert page.text.startswith("# ")
    assert page.images
    assert all(image.startswith(b"\x89PNG") for image in page.images.values())
    assert "Traceback" not in page.text


def test_outputs_become_markdown() -> None:
    module = site_module("notebooks")
    page = module.Page("")
    stream = {"name": "stdout", "text": "\x1b[31mred\x1b[0m\n"}
    assert module._output(stream, page, "n") == "```{.text .output}\nred\n```"
    assert module._output({"name": "stderr", "text": "progress"}, page, "n") == ""
    assert module._output({"data": {"image/png": "iVBORw0="}}, page, "n") == "![output](n-1.png)"
    assert page.images["n-1.png"].startswith(b"\x89PNG")


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe")
    tidy = site_module("docstrings").tidy
    formula = "One.\n\n.. math:: a \\\\\n    b\n\nSee :math:`x_1`.\n\n"
    text = formula + "Args:\n    p, q: two\n        lines.\n    r: one.\n\nExample:\n    >>> 1\n    1\n"
    found = tidy(text)
    assert "$$ \\begin{split} a \\\\ b \\end{split} $$" in found
    assert "See $x_1$." in found
    assert "    p: two\n        lines.\n    q: two\n        lines.\n    r: one." in found
    assert "\nExamples:\n" in found

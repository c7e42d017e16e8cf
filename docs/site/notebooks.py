"""Notebooks are kept as scripts in cells (jupytext's percent format); here they are run and become pages."""

from __future__ import annotations

import base64
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass
class Page:
    """A notebook as Markdown, and its pictures by the name under which the text refers to them."""

    text: str
    images: dict[str, bytes] = field(default_factory=dict)


def run(source: Path, folder: Path | None = None) -> Any:
    """Run the notebook of a script in a folder of its own and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    notebook = jupytext.read(source)
    resources = {"metadata": {"path": str(folder)}} if folder else {}
    # The report of a failing cell is the exception that this raises.
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute(stderr=subprocess.DEVNULL)
    return notebook


def to_page(source: Path, *, execute: bool) -> Page:
    """The page of a notebook, with the outputs of its cells if it is executed."""
    if execute:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(source, Path(folder))
    else:
        notebook = jupytext.read(source)
    page = Page("")
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            parts.append(_output(output, page, source.stem))
    page.text = "\n\n".join(part for part in parts if part) + "\n"
    return page


def _output(output: Any, page: Page, stem: str) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}-{len(page.images) + 1}.png"
        page.images[name] = base64.b64decode(data["image/png"])
        return f"![output]({name})"
    text = output.get("text") or data.get("text/plain") or ""
    # Progress and warnings are no results.
    if not text.strip() or output.get("name") == "stderr":
        return ""
    return f"```{{.text .output}}\n{_ANSI.sub('', text).rstrip()}\n```"

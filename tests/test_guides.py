"""The examples of the guides run, in the order in which a page has them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import gmvq

DOCS = Path(gmvq.__file__).parents[2] / "docs"
#: Page -> the packages that its examples need beside torch.
PAGES = {
    "codes.md": (),
    "compositions.md": (),
    "data.md": ("PIL.Image",),
    "performance.md": (),
    "migration.md": ("vector_quantize_pytorch", "diffusers"),
    "transplant.md": ("diffusers",),
}


def png_of(number: int) -> bytes:
    """A small picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 2 * number, 3 * number)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in PAGES[page]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "torch": torch,
        "latents": torch.randn(4, 200, 64),
        "features": torch.randn(3, 64, 100),
        "images": torch.rand(2, 3, 16, 16),
        "png_of": png_of,
    }
    examples = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, page, "exec"), names)

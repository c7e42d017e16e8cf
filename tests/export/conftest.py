"""One ONNX export that many tests read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export_cases import export_checked, make


@pytest.fixture(scope="session")
def plain_onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the plain model as ONNX, and its notes."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    return folder, export_checked(make(), folder, "onnx")


@pytest.fixture
def onnx_folder(plain_onnx: tuple[Path, dict[str, Any]]) -> Path:
    return plain_onnx[0]

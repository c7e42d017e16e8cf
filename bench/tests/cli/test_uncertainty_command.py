"""gmvq uncertainty on a trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_uncertainty(here: Any, gmvq: Run, tmp_path: Path) -> None:
    options = ["--split", "train", "--ood", "digits", "--limit", "30", "--bins", "4", "--resamples", "5"]
    files = ["--json", tmp_path / "u.json", "--plot", tmp_path / "u.svg"]
    result = gmvq("uncertainty", here.run_dir, *options, *files)
    assert result.code == 0, result.err
    assert "rank correlation with the error" in result.out
    assert "against digits of scikit-learn" in result.out
    figures = json.loads((tmp_path / "u.json").read_text())
    assert len(figures["bins"]) == 4
    assert set(figures["auroc"]) == {"log_variance", "entropy", "negative_elbo", "mse", "contrast"}
    assert (tmp_path / "u.svg").read_text().startswith("<?xml")
    alone = gmvq("uncertainty", here.run_dir, "--resamples", "3", "--bins", "2")
    assert alone.code == 0, alone.err
    assert "AUROC" not in alone.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "plot.jpeg"], "--plot is a file .png, .svg or .pdf"),
        (["--ood", "nowhere"], "there is no 'nowhere'"),
        (["--bins", "900"], "do not fill 900 bins"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_uncertainty_misused(here: Any, gmvq: Run, arguments: list[str], message: str) -> None:
    result = gmvq("uncertainty", here.run_dir, *arguments)
    assert result.code == 2
    assert message in result.err

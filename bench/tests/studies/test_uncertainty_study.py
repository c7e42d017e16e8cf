"""What the variance knows: which runs are measured, of a short training and of the long one, and the tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmvq.reading import read_json
from gmvq_bench.commands import main
from gmvq_bench.documents import values
from gmvq_bench.markdown import render
from gmvq_bench.studies import uncertainty

pytest.importorskip("vector_quantize_pytorch")


def test_a_short_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pairs = {
        "photos32-k256": ("photos32", "photos32-k256", "digits"),
        "long-photos32-k256": ("long", "photos32-k256", "digits"),
    }
    monkeypatch.setattr(uncertainty, "PAIRS", pairs)
    file = tmp_path / "uncertainty.json"
    short = ["--seeds", "0", "1", "2", "--steps", "4", "--images", "40", "--resamples", "60"]
    methods = ["--methods", "gm-vq", "vq-ema-replace, relative"]
    assert main(["study", "uncertainty", *short, *methods, "--json", str(file)]) == 0
    found = read_json(file)
    runs = [(record["setting"], record["method"], record["seed"]) for record in found["records"]]
    short_runs = [("photos32-k256", method, seed) for seed in range(3) for method in methods[1:]]
    long_runs = [("long-photos32-k256", "gm-vq", seed) for seed in range(2)]
    assert sorted(runs) == sorted(short_runs + long_runs)
    assert {record["run"]["network"] for record in found["records"] if "long" in record["setting"]} == {
        "conv"
    }
    assert all(0 < record["mse"] < 1 for record in found["records"])
    more = values.uncertainty(found, tmp_path)
    text = render("uncertainty.md.j2", uncertainty=found, **more)
    assert "### The same after 6,000 steps" in text
    assert (tmp_path / "long-photos32-k256.png").is_file()

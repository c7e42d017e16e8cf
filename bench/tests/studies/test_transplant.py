"""Codes in a trained autoencoder: what stands still in each case, and the table of a short study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gmvq.reading import read_json
from gmvq_bench.commands import main
from gmvq_bench.markdown import render
from gmvq_bench.studies import transplant

pytest.importorskip("vector_quantize_pytorch")


def test_a_short_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pictures = {split: torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)) for split in "ab"}
    images: Any = lambda split: pictures["a" if split == "train" else "b"]  # noqa: E731
    monkeypatch.setattr(transplant, "images", images)
    monkeypatch.setattr(transplant, "POINTS", (0, 2, 4))
    monkeypatch.setattr(transplant, "AFTER", {"frozen": 4, "adapted": 0, "later": 2})
    transplant.autoencoder.cache_clear()
    file = tmp_path / "transplant.json"
    options = [
        "--seeds",
        "0",
        "--steps",
        "3",
        "--codes",
        "8",
        "--batch",
        "4",
        "--lr",
        "0.01",
        "--json",
        str(file),
    ]
    assert main(["study", "transplant", *options]) == 0
    transplant.autoencoder.cache_clear()
    found = read_json(file)
    assert len(found["records"]) == 6
    assert len({record["continuous"] for record in found["records"]}) == 1
    own = {r["decoder"]: r["points"] for r in found["records"] if r["method"] == "gm-vq"}
    assert own["frozen"]["0"] == own["adapted"]["0"] == own["later"]["0"]
    assert own["frozen"]["2"] == own["later"]["2"] != own["adapted"]["2"]
    assert own["frozen"]["4"] != own["later"]["4"]
    text = render("transplant.md.j2", transplant=found)
    assert text.count("\n| ") == 8
    assert "adapted from step 100" in text

"""Eight levels beside ResidualVQ: the errors are those of what the decoder reads, and the table of a short study."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gmvq.reading import read_json
from gmvq_bench.commands import main
from gmvq_bench.markdown import render
from gmvq_bench.studies import levels

pytest.importorskip("vector_quantize_pytorch")


def test_a_short_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, levels.DIM, generator=generator)
    monkeypatch.setattr(levels, "latents", lambda data: (rows[:500], rows[500:]))
    monkeypatch.setattr(levels, "CODES", 8)
    file = tmp_path / "levels.json"
    options = ["--seeds", "0", "--steps", "60", "--batch", "64", "--data", "photos", "--json", str(file)]
    assert main(["study", "levels", *options]) == 0
    found = read_json(file)
    assert [record["method"] for record in found["records"]] == list(levels.METHODS)
    for record in found["records"]:
        for search in ("greedy", "beam"):
            assert len(record[search]) == levels.LEVELS
            assert record[search][-1] < record[search][0] < 1.2
    assert found["records"][0]["beam"][-1] <= found["records"][0]["greedy"][-1]
    text = render("levels.md.j2", levels=found)
    assert text.count("\n| photos") == 4


def test_what_levels_add_sums_to_what_is_read() -> None:
    x = torch.randn(200, levels.DIM)
    layer = levels.layer_of("gm-vq")
    layer.init_codebook(x)
    layer.eval()
    read = levels._codes(layer, x, 1).sum(0)
    torch.testing.assert_close(read, layer.get_codes_from_indices(layer.encode(x)))
    theirs = levels.layer_of("ResidualVQ")
    theirs(x[None])
    theirs.eval()
    torch.testing.assert_close(levels._codes(theirs, x, 1).sum(0), theirs(x)[0])

"""Converted modules beside their originals: a short study of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gmvq.reading import read_json
from gmvq_bench.commands import main
from gmvq_bench.markdown import render
from gmvq_bench.studies import convert

pytest.importorskip("vector_quantize_pytorch")


def test_a_short_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(convert, "BATCH", 300)
    file = tmp_path / "convert.json"
    assert main(["study", "convert", "--latents", "700", "--json", str(file)]) == 0
    records = read_json(file)["records"]
    assert [record["method"] for record in records] == list(convert.KINDS)
    for record in records:
        assert record["latents"] == 700
        assert record["differing"] <= 1
        assert record["unequal_values"] == 0
    assert render("convert.md.j2", convert=read_json(file)).count("\n| ") == 2 + len(convert.KINDS)


@pytest.mark.parametrize("kind", ["EMA", "two groups of two levels"])
def test_other_codes_are_counted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the codes moved away: latents that had one of them differ, and theirs are nearer."""
    whole = convert.from_vector_quantize

    def moved(module: Any) -> Any:
        ours = whole(module)
        for name, parameter in ours.named_parameters():
            if name.endswith("codebook"):
                parameter.data[: len(parameter) // 2] += 100.0
        return ours

    monkeypatch.setattr(convert, "from_vector_quantize", moved)
    options = type("Options", (), {"latents": 500})
    record = convert.measure(method=kind, seed=0, options=options)
    assert record["differing"] > 100
    assert record.get("theirs_nearer", record["differing"]) == record["differing"]

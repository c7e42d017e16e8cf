"""Samples from tokens: every kind of them is measured, and the table of a short study."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmvq.reading import read_json
from gmvq_bench.commands import main
from gmvq_bench.markdown import render
from gmvq_bench.studies import generation

pytest.importorskip("vector_quantize_pytorch")


def test_a_short_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generation, "SETTING", ("photos32", "photos32-k256"))
    generation._real.cache_clear()
    file = tmp_path / "generation.json"
    short = ["--seeds", "0", "--steps", "3", "--images", "24", "--resamples", "2", "--prior_steps", "1"]
    try:
        assert main(["study", "generation", *short, "--json", str(file)]) == 0
    finally:
        generation._real.cache_clear()
    found = read_json(file)
    kinds = {record["method"]: set(record["samples"]) for record in found["records"]}
    assert list(kinds) == list(generation.METHODS)
    noisy = {f"prior, noise {noise:g}" for noise in generation.NOISES}
    assert kinds[generation.OURS] == {"prior", "reconstructions", "floor", *noisy}
    assert kinds[generation.MASKED] == {"prior"}
    assert all(kinds[rival] == {"prior", "reconstructions"} for rival in generation.METHODS[2:])
    for record in found["records"]:
        assert record["bits_per_image"]["prior"] > record["bits_per_image"]["entropy"] > 0
    text = render("generation.md.j2", generation=found)
    # One line of each kind, and one of each method's bits.
    assert sum(text.count(f"\n| {method} |") for method in kinds) == sum(map(len, kinds.values())) + len(
        kinds
    )

"""The methods of the study of scales spend the same bits on an image."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gmvq.quantizers.blocks import scale_places
from gmvq_bench.comparison.methods import build_quantizer
from gmvq_bench.studies import records
from gmvq_bench.studies.scales import DATA, METHODS, described


@pytest.mark.parametrize("data", DATA)
def test_all_methods_have_the_same_rate(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RESULTS", Path(__file__).parents[2] / "results")
    bits = []
    for method in METHODS:
        run = described(data, method, seed=0, steps=10)
        assert run["steps"] == 10
        sides = [run["size"] // run["downsample"]] * 2
        scales = run["options"].get("scales")
        counts = [len(one) for one in scale_places(sides, scales)] if scales else [math.prod(sides)]
        levels = run["options"].get("num_quantizers", 1)
        bits.append(sum(counts) * levels * math.log2(run["codebook_size"]))
        assert getattr(build_quantizer(run), "index_shape", (1,)) == (scales or levels,)
    assert max(bits) < 1.01 * min(bits)

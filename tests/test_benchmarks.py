"""The studies run: one short training of each method, resumed results, and the shape of the printed table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "vector_quantize_pytorch", reason="vector-quantize-pytorch (extra bench) is not installed"
)
pytest.importorskip("skimage", reason="scikit-image (extra data) is not installed")


import against_vq
import defaults
import harness
import support

SHORT: dict[str, Any] = {
    **against_vq.SETTING,
    "codebook_size": 16,
    "steps": 3,
    "batch_size": 4,
    "lr": 1e-3,
    "seed": 0,
}


@pytest.mark.parametrize(
    "change", [{"method": "gm-vq"}, {"method": "gm-vq", "loss": "drop-in"}, {"method": "ema-vq"}]
)
def test_a_run_trains_and_measures_both_splits(change: dict[str, Any]) -> None:
    result = harness.train({**SHORT, **change, "name": "short"})
    for split in ("validation", "test"):
        assert 0 < result[f"{split}_mse"] < 1
        assert 1 <= result[f"{split}_perplexity"] <= 16
        assert 0 < result[f"{split}_usage"] <= 1
    assert math.isfinite(result["seconds"])


def test_results_are_kept_and_not_run_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    runs = [{"name": "a", "seed": seed} for seed in range(3)]
    done = {"validation_mse": 1.0, "validation_perplexity": 2.0, "seconds": 0.0}
    path.write_text(json.dumps({"environment": {}, "runs": [{**run, **done} for run in runs]}))
    assert harness.run_all(runs, path) == [{**run, **done} for run in runs]


def test_every_variant_builds_and_differs_from_the_defaults() -> None:
    seen = set()
    for name, change in defaults.VARIANTS.items():
        harness.build_quantizer({**defaults.COMMON, **change})
        seen.add(json.dumps(change, sort_keys=True))
        assert change or name == "defaults"
    assert len(seen) == len(defaults.VARIANTS)


def test_every_support_builds_and_a_dense_warm_up_ends() -> None:
    for change in support.VARIANTS.values():
        built = harness.build_quantizer({**support.COMMON, "codebook_size": 64, **change})
        assert built.support == change["parts"]["support"]  # pyright: ignore
    warm = {
        **SHORT,
        "method": "gm-vq",
        **support.VARIANTS["8 after warm-up"],
        "splits": ["validation"],
        "name": "warm",
    }
    result = harness.train(warm)
    assert result["quantizer"]["support"] == 8
    assert 0 < result["validation_mse"] < 1


def test_spread_is_the_t_interval() -> None:
    assert harness.spread([1.0, 2.0, 3.0]) == "2.000 ± 2.484"
    assert harness.spread([1.5]) == "1.500"

"""The tables of docs/uncertainty.md are written from results files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench.documents.pages import write_parts
from gmvq_bench.documents.values import PROBES

ENVIRONMENT = {"device": "a CPU", "threads": 1, "torch": "2"}


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def record(seed: int, method: str = "gm-vq") -> dict[str, Any]:
    scores = {"log_variance": estimate(0.5 + 0.1 * seed), "entropy": estimate(0.2), "contrast": estimate(0.4)}
    found = {
        "images": 100,
        "dataset": "clothes",
        "out_images": 50,
        "out_dataset": "digits",
        "local": scores,
        "whole": scores,
        "partial": estimate(0.3),
        "bins": [
            {"log_variance": float(i), "error": {"value": 0.01 * 2**i, "low": 0.005, "high": 2.0}}
            for i in range(3)
        ],
        "slope": 0.7,
        "auroc": {**scores, "mse": estimate(0.6)},
        "advantage": {name: estimate(-0.1) for name in scores},
    }
    return {
        "setting": "s",
        "other": "digits",
        "method": method,
        "seed": seed,
        "mse": 0.005,
        "mse_other": 0.007,
        "uncertainty": found,
    }


def probed(method: str, seed: int, accuracy: float) -> dict[str, Any]:
    fid = {name: estimate(1.0) for name in ("fid", "fid_unbounded", "kid", "precision", "recall")}
    return {
        "method": method,
        "seed": seed,
        "bits": 392.0,
        "bits_entropy": 380.0 + seed,
        "features": 196,
        "probe": dict.fromkeys(PROBES, accuracy + 0.01 * seed),
        "rfid": {**fid, "extractor": "Blocks"} if seed == 0 else None,
    }


def test_the_page_is_written_from_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results, page = tmp_path / "bench" / "results", tmp_path / "docs" / "uncertainty.md"
    results.mkdir(parents=True)
    page.parent.mkdir()
    names = ("uncertainty", "bottleneck")
    text = [f"<!-- {n}: gmvq document -->\nold\n<!-- end of {n} -->\n" for n in names]
    page.write_text("before\n" + "".join(text))
    write_parts(tmp_path)
    assert page.read_text().count("old") == 2  # nothing is there

    head = {"command": "python x.py", "environment": ENVIRONMENT}
    (results / "uncertainty.json").write_text(
        json.dumps({**head, "records": [record(0), record(1), record(0, "vq")]})
    )
    pixels = {
        "method": "pixels",
        "seed": -1,
        "probe": {"linear_pixels": 0.84, "knn_pixels": 0.83},
    }
    runs = [probed(m, s, a) for m, a in (("gm-vq", 0.8), ("vq", 0.7), ("cvq", 0.75)) for s in (0, 1)]
    settings = {"train": 10, "test": 20, "fid": 30}
    (results / "bottleneck.json").write_text(
        json.dumps({**head, "settings": settings, "records": [pixels, *runs]})
    )
    write_parts(tmp_path)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before")
    assert r"H(q(c\|x))" in text
    assert "| 0.550 ± 0.635 " in text  # mean over seeds of log s², and its t-interval
    assert "4.0 ± 0.0 times" in text
    assert "| vq " in text
    assert "| +5.0 ± 0.0" in text  # gm-vq less cvq, the best rival, paired by seed
    assert "| the pixels themselves |" in text
    assert "features of Blocks, seed 0" in text
    assert (page.parent / "uncertainty" / "s.png").is_file()

"""Reports and pictures of made-up results: what they say about wins, losses, crashes and what is missing."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench.comparison.plots import plot_all
from gmvq_bench.comparison.report import render, short_table

SETTING = {
    "data": "photos", "size": 32, "channels": 3, "network": "tiny", "downsample": 4, "dim": 16,
    "codebook_size": 256, "steps": 400, "batch_size": 64, "tuned_as": None, "needs": "",
}  # fmt: skip
LR = [0.003, 0.006, 0.012]


def method(quantizer: str, **more: Any) -> dict[str, Any]:
    return {"quantizer": quantizer, "grid": {"lr": LR}, "options": {}, "note": "", "settings": [], **more}


def final(name: str, seed: int, mse: float, perplexity: float, setting: str = "k256") -> dict[str, Any]:
    mse *= 1 + 0.01 * random.Random(f"{name}{seed}").uniform(-1, 1)
    test = {
        "mse": mse / 1e3, "psnr": 25.0, "ssim": 0.8, "kid": None, "perplexity": perplexity, "usage": 0.9,
        "codes_used": 230, "distinct": 200.0, "bits_per_pixel": 0.5, "bits_per_pixel_entropy": perplexity / 500,
    }  # fmt: skip
    entropy = [4.0, None, 2.0 + 0.01 * seed] if "gm-vq" in name else [None] * 3
    curve = {
        "step": [1, 2, 3],
        "mse": [9.0, 4.0, mse],
        "perplexity": [3.0] * 3,
        "conditional_entropy": entropy,
    }
    return {
        "setting": setting, "method": name, "phase": "final", "options": {}, "lr": 0.006, "seed": seed, "test": test,
        "validation": {"mse": 0.003, "perplexity": 9.0, "usage": 0.5}, "extractor": None, "curve": curve,
        "steps_per_second": 20.0, "peak_memory_mb": 150.0, "seconds": 20.0, "error": None,
    }  # fmt: skip


def tuned(name: str, lr: float, mse: float, error: str | None = None) -> dict[str, Any]:
    head = {
        "setting": "k256",
        "method": name,
        "phase": "tune",
        "options": {},
        "lr": lr,
        "seed": 1000,
        "error": error,
    }
    return head if error else {**head, "validation": {"mse": mse, "perplexity": 9.0, "usage": 0.5}}


def make(ours: float = 2.0, perplexity: float = 220.0, seeds: int = 3) -> dict[str, Any]:
    """Ours, two rivals at MSE 3 and 4, a ceiling at 1."""
    methods = {name: method(name) for name in ("gm-vq", "vq", "fsq")} | {"ae": method("ae", ceiling=True)}
    level = {"gm-vq": (ours, perplexity), "vq": (3.0, 200.0), "fsq": (4.0, 240.0), "ae": (1.0, 1.0)}
    runs = [tuned(name, lr, 0.002 + abs(lr - 0.006)) for name in methods for lr in LR]
    runs += [final(name, seed, *level[name]) for name in methods for seed in range(seeds)]
    suite = {
        "name": "quick", "description": "small", "ours": "gm-vq", "seeds": list(range(seeds)),
        "tuning_seed": 1000, "settings": {"k256": dict(SETTING)}, "methods": methods,
    }  # fmt: skip
    environment = {
        "device": "a CPU",
        "python": "3.12",
        "torch": "2.11",
        "gmvq": "0.1",
        "vector-quantize-pytorch": None,
    }
    return {
        "kind": "gmvq compare", "suite": suite, "environment": environment,
        "command": "gmvq compare --suite quick", "runs": runs,
    }  # fmt: skip


def row(text: str, start: str) -> list[str]:
    """Cells of the first table row whose first cell starts so."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return next([cell.strip() for cell in cells] for cells in rows if cells[0].strip().startswith(start))


def test_head_says_command_device_versions_and_seeds():
    text = render(make())
    assert text.startswith("## quick: small\n\n`gmvq compare --suite quick`\n")
    assert "Device: a CPU" in text
    assert "torch 2.11, gmvq 0.1." in text
    assert "Seeds 0, 1, 2;" in text


def test_rows_are_in_order_with_ceilings_in_italics_and_the_best_discrete_in_bold():
    text = render(make())
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert [rows[0], *rows[2:6]] == ["method", "*ae (ceiling)*", "**gm-vq (ours)**", "vq", "fsq"]
    assert row(text, "**gm-vq (ours)**")[1].startswith("**")
    assert row(text, "*ae")[4:7] == ["-", "-", "-"]  # no codes
    assert "KID" not in text
    worse = render(make(ours=3.5))
    assert row(worse, "**vq**")
    assert row(worse, "gm-vq (ours)")


def test_crashes_and_missing_seeds_are_told_and_errors_cannot_break_the_table():
    results = make()
    bad = "RuntimeError: a | b *c* <d>\nsecond line"
    results["runs"] = [r for r in results["runs"] if (r["method"], r["seed"]) not in (("vq", 1), ("vq", 2))]
    results["runs"] += [{**final("vq", 1, 3.0, 9.0), "error": bad}]
    results["runs"] = [r for r in results["runs"] if r["method"] != "fsq"]
    results["runs"] += [tuned("fsq", lr, 0, bad) for lr in LR]
    results["suite"]["methods"]["new"] = method("new")
    text = render(results)
    escaped = r"RuntimeError: a \| b \*c\* \<d\> second line"
    assert row(text, "vq (1 of 3 seeds)")
    assert row(text, "fsq")[1] == f"failed: {escaped}"
    assert row(text, "new")[1] == "not yet run"
    assert f"- k256, vq, final (seed 1) failed: {escaped}" in text
    assert "- k256, vq: seed 2 not yet run" in text
    assert "- k256, fsq: seeds 0, 1, 2 not run: its whole grid failed" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert tables
    for lines in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_learning_curves_that_cross_say_at_which_step():
    for ours, vq in ((2.0, "3"), (3.5, "-")):
        against = render(make(ours=ours)).split("| against")[1]
        assert [row(against, name)[3] for name in ("vq", "fsq")] == [vq, "3"]


def test_grid_marks_a_choice_at_an_edge_and_failed_points():
    results = make()
    for run in results["runs"]:
        if run["method"] == "fsq":
            run["lr"] = {0.012: 0.006, 0.006: 0.012}.get(run["lr"], run["lr"])
    results["runs"] = [
        r for r in results["runs"] if (r["method"], r["phase"], r["lr"]) != ("vq", "tune", 0.003)
    ]
    text = render(results).split("# Grids")[1]
    assert row(text, "gm-vq")[1:5] == ["lr 0.003, 0.006, 0.012", "lr 0.006", "2.000", "no"]
    assert row(text, "fsq")[2:5] == ["lr 0.012", "2.000", "**lr highest**"]
    assert row(text, "vq")[1] == "lr 0.003, 0.006, 0.012 (2 of 3 points have figures)"


def test_settings_that_share_their_tuning_say_so():
    results = make()
    results["suite"]["settings"]["k64"] = {**SETTING, "codebook_size": 64, "tuned_as": "k256"}
    text = render(results)
    assert "Rates and weights as tuned in k256." in text
    assert "Tuned in k256, used in k64 too:" in text
    assert row(text.split("# k64")[1], "vq")[1] == "not yet run"


def test_short_table_has_a_pair_of_columns_per_setting_and_bolds_the_best():
    results = make()
    results["suite"]["methods"]["new"] = method("new")
    text = short_table(results, ["k256"])
    assert row(text, "method") == ["method", "k256: MSE x 1e-3", "perplexity"]
    assert re.fullmatch(r"\*\*(1.99|2.0\d) ± 0.0\d\*\*", row(text, "gm-vq")[1])
    assert row(text, "fsq")[2] == "**240**"
    assert row(text, "*ae*")[2] == "-"
    assert row(text, "new")[1:] == ["not yet run", "-"]


def test_output_depends_on_the_records_alone():
    results = make()
    before = copy.deepcopy(results)
    shuffled = {**results, "runs": random.Random(0).sample(results["runs"], len(results["runs"]))}
    assert render(results) == render(shuffled) == render(before)
    assert results == before


def test_an_empty_results_file_is_a_report_of_what_is_missing(tmp_path: Path):
    results = {**make(), "runs": []}
    assert "- k256, gm-vq: seeds 0, 1, 2 not yet run" in render(results)
    assert "not yet run" in short_table(results, ["k256"])
    assert plot_all(results, tmp_path) == []


def test_plots_write_what_there_is_to_see(tmp_path: Path):
    results = make()
    for codes in (64, 1024):
        results["suite"]["settings"][f"k{codes}"] = {**SETTING, "codebook_size": codes, "tuned_as": "k256"}
        results["runs"] += [final("gm-vq", seed, 300 / codes, codes / 2, f"k{codes}") for seed in range(3)]
    names = ["mse_perplexity"]
    files = plot_all(results, tmp_path / "new")
    assert [file.name for file in files] == [f"quick_{name}.png" for name in names]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())  # nothing temporary is left
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


@pytest.mark.parametrize("curve", [None, {}, {"step": [1, 2], "mse": [None, float("nan")]}])
def test_plots_survive_missing_curves_and_figures(curve: Any, tmp_path: Path):
    results = make(seeds=1)
    for run in results["runs"]:
        if run["phase"] == "final":
            run["curve"] = curve
            del run["test"]["bits_per_pixel_entropy"]
    assert [file.name for file in plot_all(results, tmp_path)] == ["quick_mse_perplexity.png"]
    results["suite"]["settings"]["k256"]["steps"] = 6000
    names = ["quick_mse_perplexity.png", "quick_curves.png"]
    assert [file.name for file in plot_all(results, tmp_path)] == names

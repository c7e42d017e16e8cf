"""docs/results.md, docs/comparisons.md and the README's table are written from results files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmvq.files import write_json
from gmvq_bench.comparison.runs import assemble
from gmvq_bench.comparison.suite import suite_from_dict
from gmvq_bench.documents.pages import merged, write_pages


def results(name: str, *settings: str) -> dict[str, Any]:
    suite = suite_from_dict(
        {
            "name": name,
            "description": "for tests",
            "settings": {
                s: {"data": "photos", "size": 8, "codebook_size": 256, "steps": 2} for s in settings
            },
            "methods": {"gm-vq": {"quantizer": "gm-vq", "grid": {"lr": [0.001]}}},
        },
        name,
    )
    test = {"mse": 0.002, "perplexity": 12.0}
    runs = [
        {
            **suite.run(setting, "gm-vq", {"lr": 0.001}, seed, "final"),
            "test": {**test, "mse": test["mse"] + 1e-4 * seed},
            "curve": {"step": [1], "mse": [0.1], "perplexity": [2.0], "conditional_entropy": [None]},
            "environment": {"device": "a CPU", "threads": 1},
            "error": None,
        }
        for setting in settings
        for seed in suite.seeds
    ]
    return assemble(suite, runs, command="gmvq compare", date="2026-01-01")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    kept = tmp_path / "bench" / "results"
    kept.mkdir(parents=True)
    for page, name in (("README.md", "results"), ("docs/reliability.md", "reliability")):
        file = tmp_path / page
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"before\n<!-- {name}: gmvq document -->\nold\n<!-- end of {name} -->\nafter\n")
    killed = {"images": 70, "kills": 5, "rows_lost": 0, "rows_doubled": 0, "identical": True}
    speed = {
        "ratio": 0.9,
        "ratio_cpu_time": 0.95,
        "ratio_with_opening": 0.85,
        "images_per_second_encode": 1234.5,
    }
    reliability = {
        "command": "python it",
        "environment": {"device": "a CPU", "torch": "2"},
        "speed": speed,
        "kills": killed | {"peak_memory_bytes": 2**30},
        "small_kills": killed | {"identical": False},
    }
    (kept / "reliability.json").write_text(json.dumps(reliability))
    check = {"indices": 100, "images": 4, "differing": 1, "largest_image_difference": 1e-6}
    (kept / "export.json").write_text(json.dumps({"command": "e", "check": check}))
    folder = {"inputs": 9, "outcomes": {"accepted": 3, "ValueError": 5, "unexpected": 1}}
    kinds = {"folder": folder | {"largest_memory_above_baseline_bytes": 3 << 20}}
    fuzz = {"commands": ["f", "g"], "date": "d", "seed": 0, "inputs": 9, "unexpected": 1, "kinds": kinds}
    (kept / "fuzz.json").write_text(json.dumps(fuzz))
    write_json(kept / "compare" / "photos32.json", results("photos32", "a"))
    write_json(kept / "compare" / "both.json", results("both", "a", "b"))
    return tmp_path


def test_pages_are_written_from_the_results_files(root: Path) -> None:
    write_pages(root)
    assert "2.20 ± 0.20" in (root / "docs" / "results.md").read_text()
    page = (root / "docs" / "comparisons.md").read_text()
    assert page.index("## photos32") < page.index("## both")  # the known suites first
    assert "2.200 ± 0.196" in page
    assert "`gmvq compare --suite paper-full`" in page.split("## Not yet run, or not in every setting")[1]
    for line in page.splitlines():
        if line.startswith("!["):
            assert (root / "docs" / line.split("(")[1].rstrip(")")).is_file()
    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert "old" not in readme
    assert "compared in" in readme
    reliability = (root / "docs" / "reliability.md").read_text()
    assert "at 0.90 of the bare loop" in reliability
    assert [cell.strip() for cell in reliability.splitlines()[-4].split("|")[1:-1]] == [
        "folder",
        "9",
        "3",
        "5",
        "1",
    ]
    assert "`f; g`, d: 9 inputs, 1 unexpected; at most 3 MiB" in reliability
    assert "ONNX gives 99 as the model does" in reliability
    assert "**no**" in reliability
    write_pages(root)
    assert (root / "README.md").read_text() == readme


def test_a_readme_without_its_markers_is_left_alone(root: Path) -> None:
    (root / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md must hold"):
        write_pages(root)
    assert (root / "README.md").read_text() == "mine"


def test_a_setting_of_two_suites_counts_once() -> None:
    whole = merged([results("photos32", "a"), results("both", "a", "b")])
    assert list(whole["suite"]["settings"]) == ["a", "b"]
    assert len(whole["runs"]) == 10

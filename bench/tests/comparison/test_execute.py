"""Runs in worker processes: resumed, isolated, chosen on the validation split; with a stand-in for the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench.comparison.execute import Records, chosen, execute, run_suite
from gmvq_bench.comparison.suite import Suite, suite_from_dict

SUITE: dict[str, Any] = {
    "name": "small",
    "description": "for tests",
    "seeds": [0, 1],
    "settings": {
        "a": {"data": "photos", "size": 8, "codebook_size": 16, "steps": 2, "dim": 4},
        "b": {"data": "photos", "size": 8, "codebook_size": 32, "steps": 2, "dim": 4, "tuned_as": "a"},
    },
    "methods": {
        "gm-vq": {"quantizer": "gm-vq", "grid": {"lr": [0.001, 0.002, 0.004]}},
        "fixed": {"quantizer": "gm-vq", "grid": {"lr": [0.001]}, "options": {"support": 8}},
    },
}


def figures(run: dict[str, Any], device: str) -> dict[str, Any]:
    """Stands in for a training run: the best rate is 0.002."""
    mse = abs(run["lr"] - 0.002) + 1e-3 * run["seed"]
    figures = {"mse": mse, "perplexity": 3.0, "usage": 1.0}
    return {"validation": figures, "seconds": 0.0, **({"test": figures} if run["phase"] == "final" else {})}


def dying(run: dict[str, Any], device: str) -> dict[str, Any]:
    if run["seed"] == 0 and run["phase"] == "final":
        os._exit(9)
    if run["seed"] == 1 and run["phase"] == "final":
        raise RuntimeError("no | luck\nat all")
    return figures(run, device)


def sleeping(run: dict[str, Any], device: str) -> dict[str, Any]:
    print("begun", flush=True)
    time.sleep(600)
    return figures(run, device)


def never(run: dict[str, Any], device: str) -> dict[str, Any]:
    raise AssertionError("nothing is left to run")


@pytest.fixture
def suite() -> Suite:
    return suite_from_dict(SUITE, "small")


@pytest.mark.usefixtures("in_process")
def test_suite_is_tuned_run_and_resumed(suite: Suite, tmp_path: Path) -> None:
    lines: list[str] = []
    options: dict[str, Any] = {"devices": ["cpu", "cpu"], "say": lines.append}
    done = run_suite(suite, Records(tmp_path), train_one=figures, **options)
    finals = [r for r in done if r["phase"] == "final"]
    assert len(done) - len(finals) == 3  # one method has a grid; setting b takes over its choice
    assert [(r["setting"], r["method"], r["seed"]) for r in finals] == [
        (s, m, seed) for s in "ab" for m in ("gm-vq", "fixed") for seed in (0, 1)
    ]
    assert {r["lr"] for r in finals if r["method"] == "gm-vq"} == {0.002}
    assert len(lines) == len(list(tmp_path.glob("*.json"))) == 11
    assert lines[-1].startswith("[8/8]")
    again = run_suite(suite, Records(tmp_path), train_one=never, **options)
    assert again == done
    known = Records(tmp_path / "other")
    known.add_known(json.loads(json.dumps(done)))
    assert run_suite(suite, known, train_one=never, **options) == done


def test_a_dead_process_and_an_error_stay_in_their_row(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """In real processes; every one that died is followed by another."""
    one = {"settings": {"a": SUITE["settings"]["a"]}, "methods": {"gm-vq": SUITE["methods"]["fixed"]}}
    suite = suite_from_dict(SUITE | one, "small")
    run = run_suite(suite, Records(tmp_path), devices=["cpu"], say=lambda _: None, train_one=dying)
    finals = [r for r in run if r["phase"] == "final"]
    assert {r["error"] for r in finals if r["seed"] == 0} == {"the process died: killed, or out of memory"}
    assert {r["error"] for r in finals if r["seed"] == 1} == {"RuntimeError: no | luck"}
    request.getfixturevalue("in_process")
    again = run_suite(suite, Records(tmp_path), devices=["cpu"], say=lambda _: None, train_one=figures)
    assert not any(r["error"] for r in again)  # failed runs are tried again


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """The pipe that a worker writes to has an end once every process that holds it has ended."""
    run = {"setting": "a", "method": "m", "phase": "final", "seed": 0, "lr": 0.1, "options": {}}
    script = tmp_path / "parent.py"
    script.write_text(f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_execute import sleeping
from gmvq_bench.comparison.execute import Records, execute
if __name__ == "__main__":
    execute([{run!r}], Records(Path({str(tmp_path / "runs")!r})), devices=["cpu"], train_one=sleeping, key=str)
""")
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline() == "begun\n"
    finally:
        parent.kill()
    assert parent.communicate(timeout=30)[0] == ""


@pytest.mark.usefixtures("in_process")
def test_choice_is_the_lowest_validation_error_among_those_that_ended_well(
    suite: Suite, tmp_path: Path
) -> None:
    tuned = execute(
        suite.grid_of("a", "gm-vq"), Records(tmp_path), devices=["cpu"], say=lambda _: None, train_one=figures
    )
    assert chosen(suite, tuned, "a", "gm-vq") == {"lr": 0.002}
    assert chosen(suite, tuned, "b", "gm-vq") == {"lr": 0.002}
    for record in tuned:
        record["error"] = "ValueError: x" if record["lr"] == 0.002 else None
    assert chosen(suite, tuned, "a", "gm-vq") in ({"lr": 0.001}, {"lr": 0.004})
    for record in tuned:
        record["error"] = "ValueError: x"
    assert chosen(suite, tuned, "a", "gm-vq") is None
    assert chosen(suite, [], "a", "fixed") == {"lr": 0.001}


@pytest.mark.parametrize(
    "text", ["{", "[]", "[3]", '"x"', "{}", '{"key": 3}', "null", '{"key": "a", "error": 1}']
)
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no record of a run: .*; delete it"):
        Records(tmp_path)

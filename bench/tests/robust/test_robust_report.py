"""Records, results files and reports of the robust suites, with known ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench.commands import main
from gmvq_bench.comparison.execute import Records, execute
from gmvq_bench.robust.design import draw
from gmvq_bench.robust.report import duels, render, scores, summary
from gmvq_bench.robust.suite import KIND, assemble, chosen_methods, key_of, runs_of, select

SETTINGS = draw()


def fake(run: dict[str, Any], device: str) -> dict[str, Any]:
    """Stands in for a training: ours has half the MSE in setting 0, diverges in setting 1."""
    if run["method"] == "gm-vq" and run["design"]["number"] == 1:
        return {"mse_of_mean": 0.1, "error": "DivergedError: no finite number"}
    mse = {"gm-vq": 0.01, "ema": 0.02, "rotation": 0.04}[run["method"]]
    test = {"mse": mse, "perplexity": 100 * mse, "usage": 1.0, "positions": 5000}
    return {
        "mse_of_mean": 0.1,
        "steps": 3,
        "seconds": 1.0,
        "test": test,
        "validation": {"mse": mse},
        "error": None,
    }


def never(run: dict[str, Any], device: str) -> dict[str, Any]:
    raise AssertionError("nothing is left to run")


def test_runs_are_recorded_once(tmp_path: Path) -> None:
    runs = runs_of(SETTINGS[:2], ["gm-vq", "ema", "rotation"], 1)
    assert len(runs) == 6
    options: dict[str, Any] = {"devices": ["cpu"], "say": lambda line: None, "key": key_of}
    done = execute(runs, Records(tmp_path), train_one=fake, **options)
    again = execute(runs, Records(tmp_path), train_one=never, **options)
    assert again == done
    assert [bool(r["error"]) for r in done] == [False, False, False, True, False, False]


def test_keys_depend_on_design_seed_and_method() -> None:
    runs = runs_of(SETTINGS[:2], ["gm-vq", "ema"], 2)
    assert len({key_of(run) for run in runs}) == len(runs) == 8


def made_up() -> dict[str, Any]:
    runs = runs_of(SETTINGS[:2], ["gm-vq", "ema", "rotation"], 1)
    return {
        "kind": KIND,
        "suite": {"name": "robust", "description": "made up"},
        "command": "gmvq compare --suite robust",
        "date": "2024-01-01",
        "environment": {"device": "a CPU", "threads": "1", "torch": "2", "vector-quantize-pytorch": "1"},
        "left_out": {"settings": ["05-x"], "reasons": {"emoji": "no font"}},
        "settings": {s.name: s.to_dict() for s in SETTINGS[:2]},
        "runs": [{**run, **fake(run, "cpu")} for run in runs],
    }


def test_ratios_are_known() -> None:
    results = made_up()
    names = [s.name for s in SETTINGS[:2]]
    found = scores(results)
    fought = duels(found, "gm-vq", ("ema", "rotation", "absent"), names)
    assert list(fought["rival"]) == ["ema", "ema"]
    # In the second it is the MSE of the mean example: 0.1 against 0.02.
    assert list(fought["ratio"]) == pytest.approx([0.5, 5.0])
    assert fought["perplexity_ratio"].iloc[0] == pytest.approx(0.5)
    assert list(fought["usage_kept"]) == [True, False]
    assert summary(fought)[:5] == ["2", "1.581", "5.00", names[1], "1"]
    assert summary(fought)[-1] == "50%"
    assert tuple(found.loc[(names[1], "gm-vq"), ["failed", "perplexity"]]) == (1, 1.0)
    assert duels(found, "gm-vq", ("absent",), names).empty


def test_the_report_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = made_up()
    text = render(results)
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line
    ]
    assert ["as published", "even", "1", "0.500", "0.50", SETTINGS[0].name, "0", "0.50", "100%"] in rows
    assert ["as published", "odd", "1", "5.000", "5.00", SETTINGS[1].name, "1", "0.50", "0%"] in rows
    assert ["network", SETTINGS[1].network, "1", "5.000", "–", "1"] in rows
    assert "**Left out** for want of data: 05-x. This machine lacks emoji: no font" in text
    assert "DivergedError: no finite number" in text
    path = tmp_path / "robust.json"
    path.write_text(json.dumps(results))
    assert main(["compare", "--report", str(path), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == text.strip()
    assert (tmp_path / "robust.md").read_text() == text


def halved(run: dict[str, Any], device: str) -> dict[str, Any]:
    mse = {"gm-vq": 0.01, "no KL": 0.02, "no births": 0.01 + 0.005 * (run["design"]["number"] % 2)}
    test = {"mse": mse[run["method"]], "perplexity": 9.0, "usage": 1.0, "positions": 99}
    rest = {"mse_of_mean": 0.5, "steps": 3, "seconds": 1.0, "error": None}
    return {"test": test, "validation": {"mse": 0.1}, **rest}


def test_ablations_are_reported_against_the_layer(tmp_path: Path) -> None:
    selection = select("robust-ablations", {})
    methods = chosen_methods("robust-ablations", ["no KL", "no births"])
    runs = runs_of(selection.settings, methods, 1)
    options: dict[str, Any] = {"devices": ["cpu"], "say": str, "key": key_of}
    done = execute(runs, Records(tmp_path), train_one=halved, **options)
    text = render(assemble("robust-ablations", selection, done, command="", date=""))
    rows = [" ".join(line.split()) for line in text.splitlines() if line.startswith("| no ")]
    assert rows[0] == "| no KL | 12 | 2.00 [2.00, 2.00] | 2.00 | 2.00 | 2.00 | 1.00 |"
    assert rows[1].startswith("| no births | 12 | 1.22 [1.07, 1.40] | 1.00 | 1.50 | 1.50 |")
    assert "rivals" not in text.split("### The even settings")[0].split("in the settings of")[1]


def test_the_command_takes_runs_from_a_results_file(tmp_path: Path) -> None:
    number = str(next(s.number for s in SETTINGS if s.data == "drawings"))
    selection = select("robust", {}, names=[number])
    runs = runs_of(selection.settings, ["gm-vq", "ema"], 1)
    options: dict[str, Any] = {"devices": ["cpu"], "say": str, "key": key_of}
    done = execute(runs, Records(tmp_path), train_one=fake, **options)
    path, out = tmp_path / "robust.json", tmp_path / "out"
    path.write_text(json.dumps(assemble("robust", selection, done, command="", date="")))
    known = ["--known", str(path), "--methods", "ema", "--settings", number]
    assert main(["compare", "--suite", "robust", *known, "--out", str(out), "--workers", "1"]) == 0
    assert not list((out / "robust").glob("*.json"))
    assert len(json.loads((out / "robust.json").read_text())["runs"]) == 2


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list"]) == 0
    assert "robust-small: 12 of them" in capsys.readouterr().out
    assert main(["compare", "--suite", "quick", "--parity", "odd"]) != 0
    assert "--parity is for the suites robust, robust-small, robust-fresh" in capsys.readouterr().err

"""The run: the gate before the clock, the results file and its resumption, what a case records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gmvq.files import write_json
from gmvq.functional.sampling import codes, dispatch, truncated
from gmvq_bench.results import Results, read
from gmvq_bench.speed import layer
from gmvq_bench.speed.contestants import CONTESTANTS, Case
from gmvq_bench.speed.gate import check_all, deviation
from gmvq_bench.speed.grid import Entry
from gmvq_bench.speed.layer import IncorrectError, Limits, measure

CPU = torch.device("cpu")
SMALL = ((61, 37, 5),)
LIMITS = Limits(1e9, seconds=0.0)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate at one small size and a quick bandwidth."""
    monkeypatch.setattr(layer, "check_all", lambda device: check_all(device, sizes=SMALL))
    monkeypatch.setattr(layer, "bandwidth", lambda device: {"copy": 1e9, "triad": 2e9})


def entries() -> list[Entry]:
    return [
        Entry(Case("train", 48, 32, 6), ("gm-vq", "gm-vq all codes", "SQ-VAE")),
        Entry(Case("search", 48, 32, 6), ("gm-vq search", "gm-vq encode")),
    ]


def run(path: Path, entries: list[Entry], command: str = "") -> dict[str, Any]:
    options: dict[str, Any] = {"which": "default", "device": CPU, "threads": None, "limits": LIMITS}
    return layer.run(path, entries, **options, command=command, say=lambda _: None)


def test_every_contestant_of_ours_passes_at_the_sizes_of_the_bench() -> None:
    checks = check_all(CPU)
    assert [c for c in checks if not c["passed"]] == []
    ours = {name for name, c in CONTESTANTS.items() if c.ours}
    assert {check["contestant"] for check in checks} == ours


def _off(out: Any) -> Any:
    return out._replace(mean=out.mean * 1.001)


@pytest.mark.parametrize(
    ("module", "name", "broken", "complaint"),
    [
        (dispatch, "mixture_sample_truncated", _off, "gm-vq, .* is off the reference"),
        (truncated, "bag", lambda out: 1.001 * out, "gm-vq support=8, .* is off"),
        (
            codes,
            "best_codes",
            lambda out: (out[0], out[1], out[2].roll(1)),
            "gm-vq support=8, .*: indices is off",
        ),
    ],
)
def test_the_gate_stops_a_broken_implementation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, name: str, broken: Any, complaint: str
) -> None:
    working = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **options: broken(working(*args, **options)))
    target = tmp_path / "r.json"
    with pytest.raises(IncorrectError, match=complaint):
        run(target, entries())
    assert not target.exists(), "nothing was timed"


def test_deviation_is_relative_to_the_largest_value() -> None:
    x = torch.tensor([1.0, -100.0])
    assert deviation(x + 1.0, x) == pytest.approx(0.01)
    assert deviation(torch.tensor(0.5), torch.tensor(0.25)) == pytest.approx(0.25)
    assert deviation(torch.tensor([1, 2]), torch.tensor([1, 3])) == float("inf")
    assert deviation(x * float("nan"), x) == float("inf")
    assert deviation(torch.zeros(2), torch.zeros(2)) == 0.0


def test_a_run_records_figures_reasons_and_provenance(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "r.json"
    results = run(target, entries(), "gmvq bench")
    assert json.loads(target.read_text()) == results
    assert list(target.parent.iterdir()) == [target], "no temporary file stays"
    assert results["environment"]["torch"] == torch.__version__
    assert results["command"] == "gmvq bench"
    assert all(check["passed"] for check in results["correctness"])
    train, search = results["cases"]
    assert train["floors"].keys() == {"matmul x 1", "matmul x 3", "bandwidth"}
    rows = train["contestants"]
    assert rows["SQ-VAE"]["median_ms"] > 0
    assert rows["SQ-VAE"]["peak_bytes"] > 4 * 48 * 32
    assert rows["SQ-VAE"]["kept_bytes"] >= 4 * (2 * 48 * 6 + 32 * 6)
    assert search["identity"]["gm-vq encode"]["differing"] == 0


def test_equal_configurations_are_measured_once() -> None:
    case = measure(Entry(Case("train", 32, 16, 4), ("gm-vq all codes", "gm-vq all codes")), LIMITS, 1e9)
    assert case["contestants"]["gm-vq all codes"]["same_as"] == "gm-vq all codes"


def test_what_takes_too_much_memory_is_skipped_with_the_reason() -> None:
    case = measure(Entry(Case("train", 32, 16, 4), ("SQ-VAE",)), Limits(1e6, 0.0), 1e9)
    assert "GB" in case["contestants"]["SQ-VAE"]["skipped"]


def test_a_run_goes_on_with_the_cases_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, asked = tmp_path / "r.json", []
    two = [Entry(Case("train", 48, 32, 6), ("gm-vq",)), Entry(Case("search", 48, 32, 6), ("gm-vq search",))]
    monkeypatch.setattr(layer, "check_all", lambda device: [])

    def stop_at_the_second(entry: Entry, limits: Limits, rate: float) -> dict[str, Any]:
        asked.append(entry.case.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(entry, limits, rate)

    monkeypatch.setattr(layer, "measure", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(target, two)
    kept = read(target, layer.KIND)["cases"]
    assert [case["name"] for case in kept] == [two[0].case.name]
    results = run(target, two)
    assert asked == [two[0].case.name, two[1].case.name, two[1].case.name]
    assert results["cases"][0] == kept[0], "not measured again"
    wider = [Entry(two[0].case, ("gm-vq", "gm-vq support=8"))]
    assert "gm-vq support=8" in run(target, wider)["cases"][-1]["contestants"]


def test_cases_of_another_machine_are_not_mixed(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    head = {"kind": "k", "environment": {"device": "a", "threads": 2}}
    Results(target, head).add({"name": "x", "contestants": {}})
    Results(target, head)
    with pytest.raises(ValueError, match="threads \\(2 there, 1 here\\)"):
        Results(target, {**head, "environment": {"device": "a", "threads": 1}})


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    write_json(target, {"kind": "other"})
    with pytest.raises(ValueError, match="other"):
        read(target, layer.KIND)
    target.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read(target, layer.KIND)

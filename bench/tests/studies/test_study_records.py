"""A study goes on where its file ends, and does not replace one that was made otherwise."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench.studies.records import cells_of, make_records


def make(file: Path, steps: int, seeds: tuple[int, ...]) -> list[int]:
    """Make records of these seeds; return those that were measured."""
    measured: list[int] = []

    def measure(*, seed: int, options: Any) -> dict[str, Any]:
        measured.append(seed)
        return {"mse": options.steps / 10.0}

    options = argparse.Namespace(json=file, steps=steps)
    make_records("some", [], options, ["steps"], cells_of(seed=seeds), measure)
    return measured


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    assert make(file, 5, (0, 1)) == [0, 1]
    assert make(file, 5, (0, 1, 2)) == [2]
    assert [record["seed"] for record in json.loads(file.read_text())["records"]] == [0, 1, 2]


def test_records_of_other_settings_stay(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    make(file, 5, (0,))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"holds records with .*5.*, not with .*600"):
        make(file, 600, (0,))
    assert file.read_bytes() == before

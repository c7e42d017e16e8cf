"""The study of large photographs, in small: that it trains on them and reads what the run says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmvq.reading import read_json
from gmvq_bench.studies import large_pictures


def test_it_records_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_pictures, "SIZE", (640, 560))
    monkeypatch.setattr(large_pictures, "COUNT", 3)
    argv = ["--steps", "3", "--methods", "32 px", "--json", str(tmp_path / "found.json")]
    assert large_pictures.run(argv) == 0
    (record,) = read_json(tmp_path / "found.json")["records"]
    assert 0.0 < record["data_wait"] < 1.0

"""``broken_writes.py`` in small: every command that is quick enough, killed and out of disk a few times."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("resource")
from broken_cases import CASES, prepare
from broken_writes import examine, run

QUICK = ("encode, bad items", "decode", "decode to a table", "sample", "reconstruct", "evaluate")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    prepare(folder, run)
    return folder


@pytest.mark.xdist_group("broken")
@pytest.mark.parametrize("name", [*QUICK, "fit"])
def test_killed_and_out_of_disk(work: Path, name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    found = examine(case, work, kills=1 if name == "fit" else 3, full=1 if name == "fit" else 3)
    assert not found["problems"], "\n".join(found["problems"])
    assert found["refused"] == found["full"]

"""``broken_writes.py`` in small: every command that is quick enough, killed and out of disk a few times."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("resource")
from broken_cases import CASES, prepare
from broken_writes import examine, run

from gmvq.cli.main import main

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


@pytest.mark.xdist_group("broken")
@pytest.mark.parametrize("name", [*QUICK, "export"])
def test_nothing_is_written_through_links_in_the_output(work: Path, tmp_path: Path, name: str) -> None:
    """Where its files or folders are to be, a command finds links to mine: it replaces or refuses them."""
    case, out = next(case for case in CASES if case.name == name), work / "out"
    assert run(case.start(work), work).code in (0, 1)
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    for folders, places in (
        (False, set(names)),
        (True, {Path(one.parts[0]) for one in names if one.parts[1:]}),
    ):
        if not places:
            continue
        shutil.rmtree(out)
        out.mkdir()
        for place in places:
            mine = tmp_path / hashlib.sha256(f"{folders}{place}".encode()).hexdigest()
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            (out / place).symlink_to(mine)
            mine.mkdir() if folders else mine.write_text("{}")
        run(case.start(work), work)
        assert [path.read_text() for path in tmp_path.iterdir() if path.is_file()] == ["{}"] * len(names)
        assert not list(tmp_path.glob("*/*"))
    shutil.rmtree(out)


@pytest.mark.parametrize(
    "note",
    [
        '{"FILE": "../mine.png"}',
        '{"FILE": "/mine.png"}',
        '{"FILE": 3}',
        '{"FILE": ".."}',
        '{"other.png": "x"}',
        "[1]",
        "3",
        "{",
    ],
)
def test_a_note_of_what_is_unfinished_leads_nowhere(
    work: Path, tmp_path: Path, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    file = "pictures/0.png"
    key = hashlib.sha256(json.dumps([file]).encode()).hexdigest()[:16]
    (tmp_path / "out").mkdir()
    for name in (key, "another"):
        (tmp_path / "out" / f".unfinished-{name}.json").write_text(note.replace("FILE", file))
    assert main(["reconstruct", "model", file, "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in tmp_path.rglob("*.png")} == {"0.png"}
    assert not (tmp_path / "mine.png").exists()

"""One bad item among many: named in skipped.jsonl, said in the last line and by the exit code; the rest is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
Run = Callable[..., Any]

BAD = {"broken.png": "truncated", "pipe.png": "FIFO", "nowhere.png": "a link to nothing"}
#: Named too, and no fault.
HARMLESS = {"notes.txt": "another kind of file", "round": "listed already"}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Forty pictures, one under a name that is no UTF-8, ten behind a link; one broken, a FIFO, links in circles."""
    folder, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    random = np.random.default_rng(0)
    names = [os.fsdecode(b"caf\xe9.png"), *(f"{i:02d}.png" for i in range(29))]
    for path in [*(folder / name for name in names), *(elsewhere / f"{i}.png" for i in range(10))]:
        Image.fromarray(random.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(path)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (folder / "nowhere.png").symlink_to(tmp_path / "absent.png")
    whole = Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    whole.save(folder / "broken.png")
    (folder / "broken.png").write_bytes((folder / "broken.png").read_bytes()[:2000])
    (folder / "notes.txt").write_text("of the photographer")
    os.mkfifo(folder / "pipe.png")
    return folder


def listed(path: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(line.keys() == {"source", "item", "reason"} for line in lines)
    assert len({line["item"] for line in lines}) == len(lines)
    return {Path(line["item"]).name: line["reason"] for line in lines}


def check(result: Any, path: Path, expected: dict[str, str]) -> None:
    assert result.code == 1, result.err
    assert result.err.splitlines()[-1] == f"3 items could not be used; {path} lists them with the reasons"
    found = listed(path)
    assert found.keys() == expected.keys()
    assert all(reason in found[name] for name, reason in expected.items())


def test_a_hostile_folder(gmvq: Run, here: Any, hostile: Path, tmp_path: Path) -> None:
    small = here.small[2:]
    run, tokens, made = tmp_path / "run", tmp_path / "tokens", tmp_path / "made"
    fit = ["fit", "--data.path", hostile, *small, "--trainer.max_steps", 6, "--data.num_workers", 1]
    result = gmvq(*fit, "--out", run)
    check(result, run / "skipped.jsonl", BAD | HARMLESS)
    assert not (run / ".skipped.jsonl").exists()
    assert (run / "report.html").is_file()

    result = gmvq("encode", run, "--data", hostile, "--split", "all", "--out", tokens)
    check(result, tokens / "skipped.jsonl", BAD | HARMLESS)
    assert "40 rows" in result.out
    assert gmvq("tokens", "verify", tokens).code == 0
    first = (tokens / "skipped.jsonl").read_bytes()
    next(tokens.glob("*.parquet")).unlink()
    (tokens / "skipped.jsonl").unlink()
    assert gmvq("encode", run, "--data", hostile, "--split", "all", "--out", tokens).code == 1
    assert (tokens / "skipped.jsonl").read_bytes() == first

    result = gmvq("evaluate", run, "--data", hostile, "--split", "all", "--json", tmp_path / "m.json")
    check(result, tmp_path / "m.skipped.jsonl", BAD | HARMLESS)

    for command in (["export", run, "--format", "torch-export"], ["inspect", run]):
        out = tmp_path / command[0]
        result = gmvq(*command, "--data", hostile, "--split", "all", "--out", out)
        check(result, out / "skipped.jsonl", BAD | HARMLESS)

    result = gmvq("reconstruct", run, hostile, "--out", made)
    check(result, made / "skipped.jsonl", BAD | {"round": "listed already"})
    assert len(list(made.glob("*.png"))) == 40


def test_strict_stops_at_the_first(gmvq: Run, here: Any, hostile: Path, tmp_path: Path) -> None:
    for name in ("pipe.png", "nowhere.png"):
        (hostile / name).unlink()  # what is left is found while it is decoded
    run, small = here.run_dir, here.small[2:]
    for command in (
        ["fit", "--data.path", hostile, *small, "--strict", "true", "--trainer.max_steps", 6],
        ["encode", run, "--data", hostile, "--split", "all", "--strict"],
        ["evaluate", run, "--data", hostile, "--split", "all", "--strict", "--json", tmp_path / "m.json"],
        ["reconstruct", run, hostile, "--strict"],
        ["export", run, "--format", "torch-export", "--data", hostile, "--split", "all", "--strict"],
        ["inspect", run, "--data", hostile, "--split", "all", "--strict"],
    ):
        out = [] if command[0] == "evaluate" else ["--out", tmp_path / str(command[0])]
        result = gmvq(*command, *out)
        assert result.code == 2, (command, result.err)
        assert "broken.png" in result.err.splitlines()[-1]
        assert "leave --strict out" in result.err.splitlines()[-1]


def test_a_clean_folder_has_no_list(gmvq: Run, here: Any, hostile: Path, tmp_path: Path) -> None:
    for name in (*BAD, *HARMLESS):
        (hostile / name).unlink()
    (tmp_path / "m.skipped.jsonl").write_text("of an earlier call")
    data = ["--data", hostile, "--split", "all"]
    assert gmvq("encode", here.run_dir, *data, "--out", tmp_path / "t").code == 0
    assert gmvq("evaluate", here.run_dir, *data, "--json", tmp_path / "m.json").code == 0
    assert not list(tmp_path.rglob("*skipped.jsonl"))

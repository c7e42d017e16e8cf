"""The README has the commands that a stranger needs, in a form that ``first_hour.py`` can follow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import first_hour
import pytest


def test_the_readme_has_every_step() -> None:
    found = first_hour.plan((first_hour.ROOT / "README.md").read_text(encoding="utf-8"))
    by_step = {step.begins: command for step, command in found}
    assert by_step["make demo"] == "make demo"
    for begins, command in by_step.items():
        assert command is None or command.startswith(begins)
        assert command is None or not any(word in command.split() for word in first_hour.STAND_INS)


def test_comments_and_places_of_the_reader() -> None:
    text = (
        "```bash\ngmvq encode runs/mine --data DIR --out tokens   # a data set\nmake demo; make test\n```\n"
    )
    assert first_hour.commands(text) == [
        "gmvq encode runs/mine --data DIR --out tokens",
        "make demo",
        "make test",
    ]
    assert (
        first_hour.with_stand_ins("gmvq encode runs/mine --data DIR photo.jpg")
        == "gmvq encode runs/demo --data my-photographs my-photographs/astronaut.jpg"
    )


def test_a_missing_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="no command that begins with 'make demo'"):
        first_hour.plan("```bash\ngmvq fit\n```")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_steps_run_and_have_to_leave_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("```bash\nprintf 1 > made\n```\n", encoding="utf-8")
    monkeypatch.setattr(first_hour, "STEPS", (first_hour.Step("printf", ("made",)),))
    assert next(first_hour.follow(tmp_path, None)).startswith("printf 1 > made: done")
    assert json.loads((tmp_path / "made").read_text(encoding="utf-8")) == 1
    monkeypatch.setattr(first_hour, "STEPS", (first_hour.Step("printf", ("absent",)),))
    with pytest.raises(RuntimeError, match="missing afterwards"):
        list(first_hour.follow(tmp_path, None))

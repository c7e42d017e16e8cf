"""A file is there whole, or the one before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmvq.files import atomic_write, write_bytes, write_json


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with atomic_write(target) as file:
        file.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_write(target) as file:
            file.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_whole_contents_and_a_sync(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "a", b"\x00", sync=True)
    assert (tmp_path / "new" / "a").read_bytes() == b"\x00"
    write_json(tmp_path / "b.json", {"ä": [1]})
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == {"ä": [1]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"a": object()})
    assert "ä" in json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert len(list(tmp_path.iterdir())) == 2

"""Files appear when they are whole, and where they belong: never through links, out of the folder, or over a device."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from gmvq import files
from gmvq.files import atomic_write, check_space, inside, open_append, write_bytes, write_json


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


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.json", f".b.json.{os.getpid()}.tmp", "c.jsonl"):
        (out / name).symlink_to(mine)
    write_bytes(out / "a.json", b"new")
    write_bytes(out / "b.json", b"new")
    with pytest.raises(OSError, match="symbolic links"):
        open_append(out / "c.jsonl")
    assert mine.read_text() == "mine"
    assert not (out / "a.json").is_symlink()

    def swap() -> None:
        with atomic_write(out / "e") as temporary:
            temporary.symlink_to(mine)

    with pytest.raises(OSError, match="took the place"):
        swap()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "..", ".", "", "/etc/passwd", "a\\b", "a\nb", "\x1b[2J", "x" * 300, 3]
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file in"):
        inside(tmp_path, name)


def test_folders_that_are_links(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a symbolic link, through which nothing is written"):
        inside(tmp_path / "run", "model", "config.json")
    assert inside(tmp_path / "run", "config.json") == tmp_path / "run" / "config.json"
    with pytest.raises(ValueError, match="is a symbolic link, through which nothing is written"):
        files.check_own(tmp_path / "run")
    files.check_own(tmp_path / "elsewhere")
    files.check_own(tmp_path / "not there yet")


def test_room_is_asked_for_before_the_work(tmp_path: Path) -> None:
    check_space(tmp_path / "new" / "folder", 1, "this")
    with pytest.raises(
        OSError, match=r"the pictures takes at least 1,000,000,000,000\.0 MB, and the disk has"
    ):
        check_space(tmp_path / "new", 10**18, "the pictures")


@pytest.mark.parametrize("kind", ["fifo", "socket", "link to a device"])
def test_devices_are_not_replaced_by_files(tmp_path: Path, kind: str) -> None:
    """``--json /dev/full`` as root put a file in the place of the device."""
    target = tmp_path / "a.json"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(target))
    else:
        target.symlink_to("/dev/null")
    before = os.lstat(target)
    with pytest.raises(ValueError, match="is not replaced; give the name of a file"):
        write_bytes(target, b"new")
    assert os.lstat(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

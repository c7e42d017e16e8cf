"""A folder of results that a killed command goes on with: it bears a note of the command until that has ended.

The same command, given again, writes every file anew, so that the folder ends as if nothing had happened. Another
command is refused, as the two would mix.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import remove_leftovers, unicode_text, write_text
from ..reading import parse_json, read_text
from .common import say

_NOTE = ".unfinished.json"
#: Options that change no file.
_ANYHOW = ("quiet", "out", "device")


@contextmanager
def new_results(
    out: Path, command: str, options: argparse.Namespace, more: Mapping[str, Any]
) -> Iterator[bool]:
    """Hold a folder for a command that fills a new one; yield whether it goes on with what it left there.

    ``more`` is what its files depend on besides its options, such as a digest. Anything but a folder at ``out`` is left
    to the command.
    """
    if out.is_file() or out.suffix.lower() in (".parquet", ".npy"):
        remove_leftovers(out.parent, out.name)
        yield False
        return
    if out.is_dir():
        remove_leftovers(out)
    note = out / _NOTE
    given = {name: value for name, value in vars(options).items() if name not in _ANYHOW}
    text = json.dumps({"command": f"gmvq {command}", **given, **more}, sort_keys=True, default=str) + "\n"
    again = _read(note)
    if again and again != unicode_text(text):
        raise ValueError(
            f"{out} holds what another gmvq command left half-done ({note.name} says which); repeat that command as it "
            "was, delete the folder, or give --out a new one"
        )
    if not again and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty, and nothing is overwritten; give --out a new folder")
    if again:
        say(f"going on with what a stopped gmvq {command} left in {out}")
    with _noted(note, text):
        yield bool(again)


@contextmanager
def added_results(out: Path, files: Sequence[Path], suffix: str) -> Iterator[dict[Path, Path]]:
    """Choose a name in a folder for the result of every file, none that is taken; the same ones after a stop.

    ``a.png`` becomes ``a.png``, or ``a-2.png``, ..., with ``suffix`` in place of its own if there is one.
    """
    key = hashlib.sha256(json.dumps([str(file) for file in files]).encode()).hexdigest()[:16]
    note = out / f".unfinished-{key}.json"
    names = _names(note)
    if names:
        say(f"going on with what a stopped gmvq reconstruct left in {out}")
        remove_leftovers(out)
    taken = {path.name for path in out.iterdir()} if out.is_dir() else set[str]()
    for other in out.glob(".unfinished-*.json") if out.is_dir() else ():
        taken |= set(_names(other).values())
    for file in files:
        if str(file) not in names:
            names[str(file)] = _free(file.stem, suffix or file.suffix, taken)
            taken.add(names[str(file)])
    with _noted(note, json.dumps(names) + "\n"):
        yield {file: out / names[str(file)] for file in files}


@contextmanager
def _noted(note: Path, text: str) -> Iterator[None]:
    """Keep a note until all is done; after an error it stays, unless nothing else was written."""
    write_text(note, text)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if [path.name for path in note.parent.iterdir()] == [note.name]:
                note.unlink()
                note.parent.rmdir()
        raise
    note.unlink()


def _free(stem: str, suffix: str, taken: set[str]) -> str:
    """stem.png, or the first of stem-2.png, stem-3.png, ... that is not taken."""
    name, number = f"{stem}{suffix}", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def _names(note: Path) -> dict[str, str]:
    """The names that a note of ``added_results`` holds; none where there is no whole one, or another's."""
    found = parse_json(_read(note) or "{}")
    given = found.items() if isinstance(found, dict) else ()
    return {file: name for file, name in given if name != ".." and Path(str(name)).name == name}


def _read(note: Path) -> str:
    """The text of a note; empty where there is none, or no whole one."""
    try:
        text = read_text(note)
        parse_json(text)
    except (OSError, ValueError):
        return ""
    return text

"""``atomic_write``: a file that a reader sees whole or not at all, whatever happens to its writer."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]


@contextmanager
def atomic_write(path: PathLike, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to, and rename it on leaving; an error leaves the old file.

    The folder is created if needed.

    Args:
        path: the file.
        sync: bring the file and its folder to the disk (fsync) before the call returns.

    Example:
        >>> with atomic_write("figures.json") as file:
        ...     file.write_text("{}")
        2
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            _sync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if sync:
        with contextlib.suppress(OSError, AttributeError):  # not every system lets folders be synced
            _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def write_bytes(path: PathLike, data: bytes, *, sync: bool = False) -> None:
    """``atomic_write`` of a file's whole contents."""
    with atomic_write(path, sync=sync) as file:
        file.write_bytes(data)


def write_new(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write a file under a name that is not taken: stem.png, stem-2.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        target = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
        try:
            target.touch(exist_ok=False)  # the name is ours from here on
        except FileExistsError:
            continue
        try:
            write_bytes(target, data)
        except BaseException:
            target.unlink()
            raise
        return target
    raise AssertionError("the names do not end")


def unicode_text(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file name that are no UTF-8 become replacement characters."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def write_text(path: PathLike, text: str) -> None:
    """``atomic_write`` of text in UTF-8, whatever names of files are in it (``unicode_text``)."""
    write_bytes(path, unicode_text(text).encode("utf-8"))


def write_json(path: PathLike, value: Any) -> None:
    """``atomic_write`` of a value as JSON, one entry a line.

    Raises:
        TypeError: JSON cannot hold the value; nothing is written then.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_figure(path: PathLike, figure: Any, dpi: float = 120) -> None:
    """``atomic_write`` of a matplotlib figure; the suffix of the name is the format."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=dpi, format=Path(path).suffix.lstrip(".") or "png")


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

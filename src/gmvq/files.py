"""How every file is written: whole or not at all, through no link, inside of the folder that it was meant for.

No other module opens files for writing; ``tests/test_layering.py`` checks that.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PathLike = str | os.PathLike[str]
#: What belongs in no name of a file: separators of folders, and signs that steer a terminal.
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f-\x9f]")
_LONGEST_NAME = 200


def inside(folder: PathLike, *names: str) -> Path:
    """The path of a file below ``folder``, whose names come from data, a configuration or another program.

    Raises:
        ValueError: a name is empty, ".." or no single name, or one of the folders on the way is a symbolic link.

    Example:
        >>> inside("runs", "small", "model").as_posix()
        'runs/small/model'
    """
    path = Path(folder)
    for place, name in enumerate(names):
        if not is_name(name):
            raise ValueError(
                f"{name!r} cannot name a file in {folder}: expected a single name of at most {_LONGEST_NAME} bytes, "
                "without slashes and control characters"
            )
        path = path / name
        if place < len(names) - 1 and path.is_symlink():
            raise ValueError(
                f"{path} is a symbolic link, through which nothing is written; put a folder there"
            )
    return path


def check_own(folder: PathLike) -> None:
    """Raise ValueError if a folder that is about to be written to holds links to folders: they may lead anywhere."""
    for path in sorted(Path(folder).glob("*")) if Path(folder).is_dir() else ():
        if path.is_symlink() and path.is_dir():
            raise ValueError(
                f"{path} is a symbolic link, through which nothing is written; put a folder there"
            )


def is_name(name: object) -> bool:
    """Whether this can be the name of one file or folder, on any system."""
    if not isinstance(name, str) or name.strip(". ") == "" or _NO_NAME.search(name):
        return False
    try:
        return len(os.fsencode(name)) <= _LONGEST_NAME
    # A surrogate that stands for no byte.
    except UnicodeEncodeError:
        return False


@contextmanager
def atomic_write(path: PathLike, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to, and rename it on leaving; an error leaves the old file.

    The folder is created if needed. A symbolic link at ``path`` is replaced; what it points to stays as it is.

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
        # A link that somebody put there would be written through.
        temporary.unlink(missing_ok=True)
        yield temporary
        if temporary.is_symlink():
            raise OSError(
                errno.ELOOP, "a symbolic link took the place of the file that was being written", str(target)
            )
        if sync:
            _sync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if sync:
        with contextlib.suppress(OSError, AttributeError):  # not every system lets folders be synced
            _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def atomic_file(path: PathLike, *, sync: bool = False) -> Iterator[BinaryIO]:
    """``atomic_write`` of a file that is open for writing bytes."""
    with atomic_write(path, sync=sync) as temporary, open_new(temporary) as file:
        yield file


def open_new(path: PathLike) -> BinaryIO:
    """Create a file and open it for writing bytes.

    Raises:
        FileExistsError: there is something of this name, be it a link to nothing.
    """
    return open(path, "xb")


def open_append(path: PathLike) -> BinaryIO:
    """Open a plain file for writing at its end, creating it and its folder if needed.

    Raises:
        OSError: a symbolic link, or a FIFO that nobody reads, is in its place.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def write_bytes(path: PathLike, data: bytes, *, sync: bool = False) -> None:
    """``atomic_write`` of a file's whole contents."""
    with atomic_file(path, sync=sync) as file:
        file.write(data)


def write_new(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write a file under a name that is not taken: stem.png, stem-2.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        target = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
        try:
            # The name is ours from here on.
            open_new(target).close()
        except FileExistsError:
            continue
        try:
            write_bytes(target, data)
        except BaseException:
            target.unlink()
            raise
        return target
    raise AssertionError("the names do not end")


def write_text(path: PathLike, text: str) -> None:
    """``atomic_write`` of text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: PathLike, value: Any) -> None:
    """``atomic_write`` of a value as JSON, one entry a line.

    Raises:
        TypeError: JSON cannot hold the value; nothing is written then.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_figure(path: PathLike, figure: Any, dpi: float = 120) -> None:
    """``atomic_write`` of a matplotlib figure; the suffix of the name is the format."""
    with atomic_file(path) as file:
        figure.savefig(file, dpi=dpi, format=Path(path).suffix.lstrip(".") or "png")


def check_space(folder: PathLike, needed: int, what: str) -> None:
    """Raise before much work is done, if its results cannot fit.

    Args:
        folder: where they go; it need not exist yet.
        needed: bytes that they take at least.
        what: they are, for the message.

    Raises:
        OSError: the disk has fewer bytes free.
    """
    place = Path(folder).expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{what} takes at least {needed / 1e6:,.1f} MB, and the disk has {free / 1e6:,.1f} MB free; make room, or "
            "write to another disk",
            str(folder),
        )


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""How every file is written: whole or not at all, through no link, inside of the folder that it was meant for.

No other module opens files for writing; ``tests/test_layering.py`` checks that.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PathLike = str | os.PathLike[str]
#: What belongs in no name of a file: separators of folders, and signs that steer a terminal.
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f-\x9f]")
_LONGEST_NAME = 200

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


def real_path(path: PathLike) -> Path:
    """The absolute path that links lead to; ``Path.resolve`` raises RuntimeError where they lead in a circle."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def is_name(name: object) -> bool:
    """Whether this can be the name of one file or folder, on any system."""
    if not isinstance(name, str) or name.strip(". ") == "" or _NO_NAME.search(name):
        return False
    try:
        return len(os.fsencode(name)) <= _LONGEST_NAME
    # A surrogate that stands for no byte.
    except UnicodeEncodeError:
        return False


class DiskFullError(OSError):
    """A file could not be written, as the disk is full or a limit on its use is reached."""


@contextmanager
def telling_full_disk(target: PathLike, written: PathLike | None = None) -> Iterator[None]:
    """Name the file in errors of a full disk, whatever a library made of them.

    Args:
        target: the file, for the message.
        written: a new file that is written to, and goes after an error: where a library hides the cause it is tried
            whether more can be written. Default: that is not tried.

    Raises:
        DiskFullError: in place of the error.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None and written is not None:
            number = _refused(written)
        if number not in _FULL:
            raise
        raise DiskFullError(
            number,
            f"{unicode_text(os.fspath(target))} could not be written: the disk is full, or a limit on its use is "
            "reached; make room and run the same command again",
        ) from error


def _refused(path: PathLike) -> int | None:
    """The error with which the system refuses more bytes at the end of a file; None where it takes them."""
    try:
        with open(path, "ab", buffering=0) as file:
            for _ in range(2):  # the first may be taken in part
                file.write(bytes(1 << 16))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


@contextmanager
def atomic_write(path: PathLike, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to, and rename it on leaving; an error leaves the old file.

    The folder is created if needed. A symbolic link at ``path`` is replaced; what it points to stays as it is.

    Args:
        path: the file.
        sync: bring the file and its folder to the disk (fsync) before the call returns.

    Raises:
        DiskFullError: the disk is full; nothing is left of the new file.
        ValueError: a FIFO, socket or device, or a link to one, has the name; it is not replaced.

    Example:
        >>> with atomic_write("figures.json") as file:
        ...     file.write_text("{}")
        2
    """
    target = Path(path)
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with telling_full_disk(target, temporary):
            # A link that somebody put there would be written through.
            temporary.unlink(missing_ok=True)
            yield temporary
            if temporary.is_symlink():
                raise OSError(
                    errno.ELOOP,
                    "a symbolic link took the place of the file that was being written",
                    str(target),
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


def _check_replaceable(path: Path) -> None:
    """Raise ValueError where a new file would take the place of a device such as /dev/null, a FIFO or a socket."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(
                f"{path} is a FIFO, socket or device, and is not replaced; give the name of a file"
            )


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


def remove_leftovers(folder: PathLike, name: str = "*") -> list[str]:
    """Remove what ``atomic_write`` left half-written in a folder, or of one file in it, when it was killed.

    Only files of processes that are gone are removed; their names are returned. On a folder that several machines write
    to at once it cannot tell, so it is for folders of one writer.
    """
    removed: list[str] = []
    for path in sorted(Path(folder).glob(f".{glob.escape(name) if name != '*' else name}.*.tmp")):
        number = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if number and not is_running(int(number[1])):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine; yes where that cannot be asked."""
    if os.name != "posix":  # where asking is not possible without ending it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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

"""How every file from outside is opened: a plain file, of a size that is looked at before memory is spent on it.

No other module calls ``open``, ``Path.read_text`` and the like; ``tests/test_layering.py`` holds the list of library
calls that read a file, each of which gets its file from here. A container may unpack to ``allowance`` of its size.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import IO, Any, TypeGuard

from .files import PathLike

#: Most bytes of a file that is read as text: configurations, manifests, tables of figures.
MOST_TEXT = 256 << 20
#: Most bytes of one encoded picture.
MOST_PICTURE = 1 << 30
#: What any container may unpack to, however small it is, ...
_FREE = 128 << 20
#: ... and how many times its own size, where that is more.
_RATIO = 20
#: Each member of a gzip file means a copy of the rest.
_MOST_MEMBERS = 64


def is_remote(path: str) -> bool:
    """Whether a name of data means a download: ``hf:NAME`` or ``stream:hf:NAME``."""
    return path.startswith(("hf:", "stream:hf:"))


def allowance(size: int) -> int:
    """Most bytes that a compressed file of ``size`` bytes may unpack to: 128 MiB, or 20 times its size."""
    return max(_FREE, _RATIO * size)


def check_unpacked(where: object, unpacked: int, size: int) -> None:
    """Raise ValueError if what unpacks from ``size`` bytes is more than ``allowance``."""
    if unpacked > allowance(size):
        raise ValueError(
            f"{where} unpacks from {size:,} to {unpacked:,} bytes or more, above the limit of {allowance(size):,} "
            "against decompression bombs; store it in smaller files, or uncompressed"
        )


def check_plain(path: PathLike) -> int:
    """Return the size of a plain file, for a library that opens the file by its name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is a folder, FIFO, socket or device, which is not opened.
    """
    return _plain(os.stat(path), path)


def not_a_file(path: PathLike) -> str:
    """What stands under a name that is no file and no folder, for messages."""
    if not os.path.lexists(path):
        return "there is no such file"
    if os.path.exists(path):
        return "it is a FIFO, socket or device, and is not opened; give a file or a folder"
    return "it is a symbolic link that leads to no file"


def _plain(status: os.stat_result, path: PathLike) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{os.fspath(path)} is a folder; expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{os.fspath(path)} is a FIFO, socket or device, and is not opened; give a plain file"
        )
    return status.st_size


def open_input(path: PathLike, most: int | None = None) -> BufferedReader:
    """Open a plain file for reading bytes.

    It is looked at before it is opened, since opening a FIFO waits and opening a device may act, and once more after.

    Args:
        path: the file.
        most: bytes that it may have; None: any number.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no plain file, or larger than ``most``.
    """
    check_plain(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        size = _plain(os.fstat(handle), path)
        if most is not None and size > most:
            raise ValueError(
                f"{os.fspath(path)} has {size:,} bytes, above the limit of {most:,} for such a file"
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: PathLike, most: int | None = None) -> bytes:
    """Read a whole file; as ``open_input``.

    Raises:
        ValueError: also: it grew above ``most`` while it was read.
    """
    with open_input(path, most) as file:
        data = file.read(-1 if most is None else most + 1)
    if most is not None and len(data) > most:
        raise ValueError(f"{os.fspath(path)} has more than {most:,} bytes")
    return data


def read_text(path: PathLike, errors: str = "strict") -> str:
    """Read a file as text in UTF-8, with every end of line as a single line feed.

    Raises:
        UnicodeDecodeError: it is not, and ``errors`` is "strict".
        ValueError: as ``read_bytes`` of ``MOST_TEXT`` bytes.
    """
    text = read_bytes(path, MOST_TEXT).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: PathLike) -> Any:
    """Read a file as JSON.

    Raises:
        ValueError: it is none, or is nested thousands deep; and as ``read_text``.
    """
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; what is none, or is nested thousands deep, raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a file is a number, other than NaN and infinity, that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def read_gzip(path: PathLike) -> bytes:
    """Unpack a gzip file of any number of members.

    Raises:
        ValueError: it is damaged or cut short, or unpacks to more than ``allowance``.
    """
    data = read_bytes(path)
    size, parts, total = len(data), list[bytes](), 0
    while data:
        if len(parts) == _MOST_MEMBERS:
            raise ValueError(f"the gzip data has more than {_MOST_MEMBERS} members; pack it again as one")
        unpacker = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpacker.decompress(data, allowance(size) - total + 1))
        except zlib.error as error:
            raise ValueError(f"damaged gzip data: {error}") from error
        total += len(parts[-1])
        check_unpacked(path, total, size)
        if not unpacker.eof:
            raise ValueError("the gzip data ends too early")
        # Zeros may fill a last block.
        data = unpacker.unused_data.lstrip(b"\0")
    return b"".join(parts)


@contextmanager
def open_zip(path: PathLike) -> Iterator[tuple[zipfile.ZipFile, IO[bytes]]]:
    """Open a zip archive (.npz, a checkpoint) whose members are inside of it and unpack to no more than ``allowance``.

    The sizes in its directory are checked here; zipfile stops unpacking a member at the size that stands there.

    Raises:
        ValueError: no archive, members that lie over each other, or more than ``allowance``.
    """
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            archive = zipfile.ZipFile(file)
        # A directory that is damaged makes zipfile raise these.
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"no zip archive, or a damaged one: {error}") from error
        with archive:
            members = archive.infolist()
            if sum(member.compress_size for member in members) > size:
                raise ValueError("the members of the archive lie over each other")
            check_unpacked(path, sum(member.file_size for member in members), size)
            yield archive, file

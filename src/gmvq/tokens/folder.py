"""The folder of a run: one writer at a time, files that are whole or not there, and paths that stay inside."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import reading
from ..data.skipping import SKIPPED
from ..files import real_path
from .manifest import MANIFEST, IndexSpec, Manifest, ShardRecord
from .plan import looks_like_shard
from .reading import read_manifest
from .shard import Columns, read_columns

LOCK = ".lock"
CACHE = ".cache"


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold the folder for one writer, and yield it; the lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield folder
        return
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise ValueError(
                f"{folder} is being written by {owner}; wait for it to end, or give another --out"
            ) from error
        # Whoever had it before may have removed the file that we opened: then nobody else can see our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    try:
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its text
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield folder
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove the temporary files of a killed writer; return their names. Only for the holder of the lock."""
    found = [path for path in folder.iterdir() if _is_temporary(path.name)]
    for path in found:
        path.unlink()
    return sorted(path.name for path in found)


def foreign_files(folder: Path) -> list[str]:
    """Names in the folder that are none of ours."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in (MANIFEST, LOCK, CACHE, SKIPPED)
        and not looks_like_shard(path.name)
        and not _is_temporary(path.name)
    )


def shard_path(folder: Path, file: str) -> Path:
    """The path of a shard, inside the folder."""
    path = folder / file
    if not looks_like_shard(file) or real_path(path).parent != real_path(folder):
        raise ValueError(
            f"{file!r} leads out of {folder}; shards are plain files in the folder itself: copy the file there"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run the same gmvq encode again to make it anew")
    return path


def read_bytes(folder: Path, record: ShardRecord) -> bytes:
    """Read a shard's file and compare it with its record."""
    path = shard_path(folder, record.file)
    size = path.stat().st_size
    hint = "run the same gmvq encode again to make it anew, or copy the folder again"
    if size != record.bytes:
        raise ValueError(f"{path} has {size:,} bytes in place of {record.bytes:,}; {hint}")
    data = reading.read_bytes(path, record.bytes)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ValueError(f"{path} was changed: its SHA-256 is not that of {MANIFEST}; {hint}")
    return data


def read_shard(folder: Path, record: ShardRecord, spec: IndexSpec) -> Columns:
    """Read the rows of a shard, its file compared with its record first."""
    return read_columns(read_bytes(folder, record), spec, record.split, str(folder / record.file))


def open_run(folder: str | os.PathLike[str]) -> tuple[Path, Manifest]:
    """Return the folder and manifest of a finished run."""
    path = Path(folder).expanduser()
    manifest = read_manifest(path)
    if not manifest.complete:
        raise ValueError(f"{path} {manifest.unfinished}")
    return path, manifest


def _is_temporary(name: str) -> bool:
    """Whether ``atomic_write`` names a file so (with the number of the process, which release 0.1 left out)."""
    inner = re.fullmatch(r"\.(.+?)(\.\d+)?\.tmp", name)
    return inner is not None and (inner[1] == MANIFEST or looks_like_shard(inner[1]))

"""The folder of a run: one writer at a time, files that are whole or not there, paths that stay inside; ``verify``."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import reading
from ..data.skipping import SKIPPED
from ..files import real_path
from .manifest import MANIFEST, IndexSpec, Manifest, ShardRecord, looks_like_shard
from .reading import read_manifest
from .shard import Columns, problems_of, read_columns

CACHE = ".cache"
_LOCK = ".lock"
#: What lies in the folder beside the shards.
_OURS = {MANIFEST, _LOCK, CACHE, SKIPPED}


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold the folder for one writer, and yield it; the lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield folder
        return
    path = folder / _LOCK
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


def foreign_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names in the folder that are none of this run's."""
    names = {path.name for path in folder.iterdir() if not _is_temporary(path.name)}
    return sorted(name for name in names - _OURS if manifest.plan_of(name) is None)


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


@dataclass
class Verification:
    """What ``verify`` found: the manifest, the rows that are as they should be, and one line for each problem."""

    manifest: Manifest
    rows: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    folder: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Read every shard of a folder of tokens and compare it with the manifest; report every problem.

    Args:
        folder: where ``encode_dataset`` wrote to.
        progress: called with (shards done, shards of all).

    Raises:
        FileNotFoundError: no folder of tokens.
        ValueError: the manifest itself cannot be read.
    """
    path = Path(folder).expanduser()
    manifest = read_manifest(path)
    found = Verification(manifest)
    if not manifest.complete:
        found.problems.append(f"the run {manifest.unfinished}")
    start = 0
    for number, record in enumerate(manifest.shards):
        if manifest.complete and record.first_id != start:
            found.problems.append(f"{record.file} begins with id {record.first_id} in place of {start}")
        start = record.first_id + record.images
        try:
            columns = read_shard(path, record, manifest.indices)
        except (ValueError, OSError) as error:
            found.problems.append(str(error))
        else:
            wrong = problems_of(columns, record)
            found.problems += [f"{record.file}: {problem}" for problem in wrong]
            found.rows += 0 if wrong else len(columns.ids)
        if progress is not None:
            progress(number + 1, len(manifest.shards))
    names = {entry.name for entry in path.iterdir()} - _OURS - {record.file for record in manifest.shards}
    found.problems += [
        f"{name} is not in the manifest; move it elsewhere, or, if a run was killed, run it again"
        for name in sorted(names)
    ]
    return found

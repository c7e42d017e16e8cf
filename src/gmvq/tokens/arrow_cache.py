"""The tokens of a folder as one Arrow file that can be mapped into memory; Parquet, being compressed, cannot.

It is made from the shards on first use, each compared with its SHA-256, in a subfolder ``.cache`` of the folder or
where ``cache_dir`` says. Its name holds the digest of the shards' digests: a file of other tokens has another name. Its
own SHA-256 lies beside it and is compared at each opening: a file that was changed is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import require
from ..files import atomic_write, inside, open_new, write_json
from ..reading import open_input, parse_json, read_json
from .folder import CACHE, read_shard
from .manifest import IndexSpec, Manifest, as_grids
from .shard import arrays_of, schema_of

_KEY = b"gmvq"
_VERSION = 1
#: SHA-256 of files by name, number, size and times.
_KNOWN: dict[tuple[str, int, int, int, int], str] = {}


def arrow_file(folder: Path, manifest: Manifest, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the Arrow file of a finished run, making it if it is absent, cut short, or of other shards.

    One record batch per shard, in order, with the columns id, indices, label and, where stored, log_variance.
    """
    key = _key(manifest)
    name = f"tokens-{key[:24]}.arrow"
    target = inside(folder, CACHE, name) if cache_dir is None else Path(cache_dir).expanduser() / name
    place = target.parent
    if _is_whole(target, key, manifest):
        return target
    try:
        with atomic_write(target, sync=True) as file:
            _write(file, folder, manifest, key)
        write_json(target.with_suffix(".json"), {"sha256": _digest(target)})
    except OSError as error:
        raise OSError(
            error.errno,
            f"the memory-mapped copy of the tokens cannot be written to {place}: {error}; give cache_dir",
        ) from error
    if cache_dir is None:
        for other in place.glob("tokens-*"):
            if other.stem != target.stem:
                other.unlink(missing_ok=True)
    return target


def map_file(path: Path) -> Any:
    """Open an Arrow file memory-mapped: a reader of its record batches."""
    arrow = require("pyarrow", "data")
    ipc = require("pyarrow.ipc", "data")
    return ipc.open_file(arrow.memory_map(str(path), "r"))


def _key(manifest: Manifest) -> str:
    whole = [_VERSION, manifest.fingerprint, [shard.sha256 for shard in manifest.shards]]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _is_whole(path: Path, key: str, manifest: Manifest) -> bool:
    """Whether the file is there, was made from these shards, and is what was written then, by its SHA-256."""
    if not path.is_file():
        return False
    arrow = require("pyarrow", "data")
    try:
        reader = map_file(path)
        noted = parse_json((reader.schema.metadata or {})[_KEY])
        whole = noted == _notes(manifest, key) and reader.num_record_batches == len(manifest.shards)
        return whole and read_json(path.with_suffix(".json"))["sha256"] == _digest(path)
    except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError):
        return False


def _digest(path: Path) -> str:
    """SHA-256 of a file; that of a file which has not changed since this process read it last is known."""
    with open_input(path) as file:
        found = os.fstat(file.fileno())
        state = (str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if state not in _KNOWN:
            _KNOWN[state] = hashlib.file_digest(file, "sha256").hexdigest()
        return _KNOWN[state]


def _notes(manifest: Manifest, key: str) -> dict[str, Any]:
    return {"key": key, "rows": [shard.rows for shard in manifest.shards]}


def _schema(spec: IndexSpec, manifest: Manifest, key: str) -> Any:
    arrow = require("pyarrow", "data")
    kept = [field for field in schema_of(as_grids(spec)) if field.name not in ("name", "split", "label")]
    # Labels are -1 where there is none: no bitmap, nothing to copy.
    label = arrow.field("label", arrow.int64(), nullable=False)
    return arrow.schema([*kept, label], metadata={_KEY: json.dumps(_notes(manifest, key))})


def _write(path: Path, folder: Path, manifest: Manifest, key: str) -> None:
    arrow = require("pyarrow", "data")
    ipc = require("pyarrow.ipc", "data")
    spec = manifest.indices
    schema = _schema(spec, manifest, key)
    with open_new(path) as stream, ipc.new_file(stream, schema) as writer:
        for record in manifest.shards:
            columns = read_shard(folder, record, spec)
            labels = [-1 if label is None else label for label in columns.labels]
            values = arrays_of(columns, schema, as_grids(spec)) | {
                "label": arrow.array(labels, arrow.int64())
            }
            arrays = [values[name] for name in schema.names]
            writer.write_batch(arrow.RecordBatch.from_arrays(arrays, schema=schema))

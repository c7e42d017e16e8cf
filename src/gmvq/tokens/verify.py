"""``verify``: every shard against the manifest: files, digests, columns, ids, splits, the range of the indices."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..data.skipping import SKIPPED
from .folder import CACHE, LOCK, read_shard
from .manifest import MANIFEST, Manifest
from .reading import read_manifest
from .shard import problems_of


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
    known = {MANIFEST, LOCK, CACHE, SKIPPED, *(record.file for record in manifest.shards)}
    found.problems += [
        f"{entry.name} is not in the manifest; move it elsewhere, or, if a run was killed, run it again"
        for entry in sorted(path.iterdir())
        if entry.name not in known
    ]
    return found

"""The folder of a run under lock: which shards are there already, and how others are added."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from .. import reading
from ..data.skipping import Skipped, write_skipped
from ..files import check_own, check_space, write_bytes
from . import plan
from .folder import foreign_files, read_bytes, remove_leftovers, shard_path
from .manifest import MANIFEST, Manifest, ShardRecord, check_same_run
from .plan import ShardPlan
from .reading import read_manifest
from .shard import adopt, notes_of
from .work import Encoded

_SECONDS = 1.0  # between two writes of the manifest


@dataclass
class EncodeResult:
    """What a call did: the manifest, how many images it encoded itself, and notes on what it found in the folder.

    ``skipped`` is the number of items that the data had and the tokens lack, the lines of ``skipped.jsonl``.
    """

    folder: Path
    manifest: Manifest
    encoded: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: int = 0


class Run:
    """What a folder holds of a run, and what is still missing."""

    def __init__(self, folder: Path, wanted: Manifest) -> None:
        self._folder = folder
        self._notes: list[str] = []
        check_own(folder)
        shards = sorted(folder.glob("*.parquet"))
        foreign = foreign_files(folder) + [path.name for path in shards if wanted.plan_of(path.name) is None]
        known = ()
        if (folder / MANIFEST).exists():
            old = read_manifest(folder)
            check_same_run(old, wanted, folder)
            if old.versions != wanted.versions:
                self._notes.append(f"the run began with the versions {old.versions}, now: {wanted.versions}")
            wanted, known = structs.replace(wanted, versions=old.versions), old.shards
        else:
            for path in shards:
                if (
                    path.name not in foreign
                    and notes_of(reading.read_bytes(path), str(path)).run != wanted.fingerprint
                ):
                    raise ValueError(
                        f"{folder} has no {MANIFEST}, and {path.name} belongs to another run; give another --out, or "
                        "delete the folder"
                    )
        if foreign:
            raise ValueError(
                f"{folder} holds other files ({', '.join(sorted(set(foreign))[:5])}); give a folder that is new, "
                "empty, or of this run"
            )
        removed = remove_leftovers(folder)
        if removed:
            self._notes.append(f"removed what a killed run left half-written: {', '.join(removed)}")
        self.manifest = wanted
        self.records: dict[str, ShardRecord] = {}
        self.records = self._found({record.file: record for record in known})
        self._save()

    def missing(self) -> list[ShardPlan]:
        """The shards still to be encoded, in order."""
        plans = plan.shards(self.manifest.splits, self.manifest.options.rows_per_shard)
        return [one for one in plans if one.file not in self.records]

    def check_space(self) -> None:
        """Raise OSError if the disk has no room for half of what the missing indices take without compression."""
        spec, images = self.manifest.indices, sum(one.images for one in self.missing())
        bits = max(1, (spec.codebook_size - 1).bit_length()) + 32 * spec.log_variance
        check_space(self._folder, images * spec.length * bits // 16, "the rest of the tokens")

    def finish(self, shards: Iterator[Encoded], skipped: Sequence[Skipped] = ()) -> EncodeResult:
        """Write every shard that comes, and the manifest once a second: a shard it has not heard of is taken over.

        ``skipped`` is what the data set left out when it was opened; with what has no row it goes to ``skipped.jsonl``.
        """
        encoded, saved = 0, time.monotonic()
        try:
            for data, record in shards:
                self._write(self._folder / record.file, data)
                self.records[record.file] = record
                encoded += record.images
                if time.monotonic() - saved > _SECONDS:
                    self._save()
                    saved = time.monotonic()
        except BaseException:
            with contextlib.suppress(OSError):  # no more than a record: the shards themselves are there
                self._save()
            raise
        self._save()
        assert self.manifest.complete
        left_out = [*skipped, *((one.name, one.reason) for one in self.manifest.skipped)]
        bad = write_skipped(self._folder, self.manifest.data.path or "the data set", left_out)
        return EncodeResult(self._folder, self.manifest, encoded, self._notes, bad)

    def _found(self, known: dict[str, ShardRecord]) -> dict[str, ShardRecord]:
        """Records of the shards that are there and whole: those of the manifest, and those it had not heard of yet."""
        found: dict[str, ShardRecord] = {}
        for file, record in known.items():
            try:
                read_bytes(self._folder, record)
                found[file] = record
            except (ValueError, FileNotFoundError) as error:
                self._notes.append(f"encoded again: {error}")
        spec, run = self.manifest.indices, self.manifest.fingerprint
        for path in sorted(self._folder.glob("*.parquet")):
            planned = self.manifest.plan_of(path.name)
            if path.name in known or planned is None:
                continue
            try:
                data = reading.read_bytes(shard_path(self._folder, path.name))
                found[path.name] = adopt(data, planned, spec, run, str(path))
                self._notes.append(f"took over {path.name}, whose record had not reached {MANIFEST}")
            except ValueError as error:
                self._notes.append(f"encoded again: {error}")
        return found

    def _save(self) -> None:
        self.manifest = self.manifest.with_shards(self.records)
        text = self.manifest.to_json().encode()
        target = self._folder / MANIFEST
        if not target.is_file() or reading.read_bytes(target) != text:
            self._write(target, text)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_bytes(path, data, sync=True)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            reason = "the disk is full, or a limit on its use is reached" if full else error.strerror or error
            raise OSError(
                error.errno,
                f"{path.name} could not be written to {self._folder}: {reason}. What is complete is kept "
                f"({len(self.records)} of {self.manifest.shard_count} shards); mend it and run the same command again "
                "to go on",
            ) from error

"""``encode_dataset``: a data set to token shards, in steps that a killed run goes on from."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..data import DataRecipe
from ..errors import check_choice, check_size, require
from ..evaluation.batches import device_of
from . import plan
from .folder import foreign_files, locked, read_bytes, remove_leftovers, shard_path, write_file
from .identity import check_same_run, digest_of, versions
from .manifest import MANIFEST, Manifest, ShardRecord
from .manifest_file import read_manifest
from .plan import ShardPlan
from .shard import adopt, run_of
from .sources import Rows
from .work import Encoded, encode_shards, index_spec

Source = DataRecipe | Mapping[str, Dataset[Any]] | Dataset[Any]
Progress = Callable[[int, int], None]
_SECONDS = 1.0  # between two writes of the manifest


@dataclass
class EncodeResult:
    """What a call did: the manifest, how many images it encoded itself, and notes on what it found in the folder."""

    folder: Path
    manifest: Manifest
    encoded: int = 0
    notes: list[str] = field(default_factory=list)


def encode_dataset(
    model: Any,
    dataset: Source,
    out: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    rows_per_shard: int = 8192,
    log_variance: bool = False,
    workers: int = 0,
    device: str | torch.device | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    checkpoint_path: str | None = None,
    progress: Progress | None = None,
) -> EncodeResult:
    """Encode every image of a data set and write the tokens to a folder, or go on with a run that was stopped.

    What a shard holds depends on the model, the data and the options alone, so a run that was killed and repeated
    any number of times ends with the same files as one that was not.

    Args:
        model: a tokenizer, or where one lies (see ``gmvq.training.load_model``).
        dataset: a recipe, a data set of ``open_images`` or any map-style data set of images, or several by split.
        out: the folder; created if needed.
        batch_size: images at a time. Part of the run: rounding may depend on it.
        rows_per_shard: images per shard; this many rows of tokens are held in memory.
        log_variance: store log s_c^2(x) beside the indices.
        workers: processes that read images ahead (local), or encode (ray; at least one).
        device: where to compute; default: where the model is.
        engine: "local", or "ray": shards are encoded by the workers of a Ray cluster and written here.
        ray_address: the cluster; default: one on this machine, for this run.
        checkpoint_path: where the model lies, for the manifest; known if ``model`` is a path.
        progress: called with (images done, images of all), after each batch.

    Raises:
        ValueError: the folder holds another run (the message names what differs), another process writes to it, or
            an argument is out of range.
        OSError: the disk is full; complete shards are kept.
        MissingExtraError: the package pyarrow or, for engine "ray", ray is absent.
    """
    require("pyarrow.parquet", "data")
    check_choice("engine", engine, ("local", "ray"))
    check_size("batch_size", batch_size)
    check_size("rows_per_shard", rows_per_shard)
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if isinstance(model, str | os.PathLike):
        from ..training.checkpoint import load_model

        checkpoint_path = os.fspath(model)
        model = load_model(checkpoint_path)
    if device is not None:
        model = model.to(device)
    rows = open_rows(dataset)
    wanted = Manifest(
        checkpoint_path=None if checkpoint_path is None else _absolute(checkpoint_path),
        checkpoint_sha256=digest_of(model),
        quantizer=model.quantizer.to_config(),
        indices=index_spec(model, torch.zeros(1, *rows.image_shape), log_variance=log_variance),
        image_shape=rows.image_shape,
        data_path=dataset.path if isinstance(dataset, DataRecipe) else None,
        data_split=dataset.split if isinstance(dataset, DataRecipe) else "all",
        data_column=dataset.column if isinstance(dataset, DataRecipe) else None,
        data_fingerprint=rows.fingerprint(),
        splits=rows.splits,
        batch_size=batch_size,
        rows_per_shard=rows_per_shard,
        device=device_of(model).type,
        versions=versions(),
    )
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the tokens go to a folder, but {folder} is a file; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        run = _Run(folder, wanted)
        missing = run.missing()
        done = sum(record.images for record in run.records.values())
        if progress is not None:
            progress(done, wanted.images)
        if engine == "ray" and missing:
            from .ray_engine import encode_on_ray

            shards = encode_on_ray(
                model, dataset, missing, run.manifest, workers=workers, address=ray_address
            )
            return run.finish(_counted(shards, done, wanted.images, progress))
        on_batch = None if progress is None else _Counter(done, wanted.images, progress)
        shards = encode_shards(model, rows, missing, run.manifest, workers=workers, on_batch=on_batch)
        return run.finish(shards)


def open_rows(dataset: Source) -> Rows:
    """The images of a recipe, a data set or several."""
    if isinstance(dataset, DataRecipe):
        return Rows(dataset.open())
    return Rows(dataset if isinstance(dataset, Mapping) else {"all": dataset})


class _Run:
    """The folder under lock: what is there already, and how shards are added."""

    def __init__(self, folder: Path, wanted: Manifest) -> None:
        self._folder = folder
        self._notes: list[str] = []
        foreign = foreign_files(folder)
        foreign += [path.name for path in folder.glob("*.parquet") if self._plan(wanted, path.name) is None]
        if (folder / MANIFEST).exists():
            old = read_manifest(folder)
            check_same_run(old, wanted, folder)
            if old.versions != wanted.versions:
                self._notes.append(f"the run began with the versions {old.versions}, now: {wanted.versions}")
            self.manifest = dataclasses.replace(wanted, versions=old.versions)
            known = {record.file: record for record in old.shards}
        else:
            self.manifest, known = wanted, {}
            for path in sorted(folder.glob("*.parquet")):
                if path.name not in foreign and run_of(path.read_bytes(), str(path)) != wanted.run:
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
        self.records: dict[str, ShardRecord] = {}
        self.records = self._found(known)
        self._save()

    def missing(self) -> list[ShardPlan]:
        """The shards still to be encoded, in order."""
        plans = plan.shards(self.manifest.splits, self.manifest.rows_per_shard)
        return [one for one in plans if one.file not in self.records]

    def finish(self, shards: Iterator[Encoded]) -> EncodeResult:
        """Write every shard that comes, and the manifest once a second: a shard it has not heard of is taken over."""
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
        return EncodeResult(self._folder, self.manifest, encoded, self._notes)

    def _found(self, known: dict[str, ShardRecord]) -> dict[str, ShardRecord]:
        """Records of the shards that are there and whole: those of the manifest, and those it had not heard of yet."""
        found: dict[str, ShardRecord] = {}
        for file, record in known.items():
            try:
                read_bytes(self._folder, record)
                found[file] = record
            except (ValueError, FileNotFoundError) as error:
                self._notes.append(f"encoded again: {error}")
        spec, run = self.manifest.indices, self.manifest.run
        for path in sorted(self._folder.glob("*.parquet")):
            planned = self._plan(self.manifest, path.name)
            if path.name in known or planned is None:
                continue
            try:
                found[path.name] = adopt(
                    shard_path(self._folder, path.name).read_bytes(), planned, spec, run, str(path)
                )
                self._notes.append(f"took over {path.name}, whose record had not reached {MANIFEST}")
            except ValueError as error:
                self._notes.append(f"encoded again: {error}")
        return found

    def _save(self) -> None:
        self.manifest = self.manifest.with_shards(self.records)
        text = self.manifest.to_json().encode()
        target = self._folder / MANIFEST
        if not target.is_file() or target.read_bytes() != text:
            self._write(target, text)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_file(path, data)
        except OSError as error:
            raise self._failed(error, path.name) from error

    def _failed(self, error: OSError, file: str) -> OSError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = (
            "the disk is full, or a limit on its use is reached" if full else error.strerror or str(error)
        )
        return OSError(
            error.errno,
            f"{file} could not be written to {self._folder}: {reason}. What is complete is kept "
            f"({len(self.records)} of {self.manifest.shard_count} shards); mend it and run the same command again to "
            "go on",
        )

    @staticmethod
    def _plan(manifest: Manifest, file: str) -> ShardPlan | None:
        return plan.shard_named(file, manifest.splits, manifest.rows_per_shard)


class _Counter:
    """Adds up images for the progress callback."""

    def __init__(self, done: int, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = done, total, progress

    def __call__(self, images: int) -> None:
        self._done += images
        self._progress(self._done, self._total)


def _counted(
    shards: Iterator[Encoded], done: int, total: int, progress: Progress | None
) -> Iterator[Encoded]:
    for data, record in shards:
        done += record.images
        if progress is not None:
            progress(done, total)
        yield data, record


def _absolute(path: str) -> str:
    """A path that holds in any folder; the name of a repository on the Hub stays as it is."""
    place = Path(path).expanduser()
    return str(place.resolve()) if place.exists() else path

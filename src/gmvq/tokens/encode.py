"""``encode_dataset``: a data set to token shards, in steps that a killed run goes on from."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from .. import reading
from ..data import DataRecipe
from ..data.skipping import Skipped, refuse_bad, write_skipped
from ..environment import versions
from ..errors import check_choice, check_size, require
from ..files import check_own, check_space, real_path, write_bytes
from ..models.interface import device_of
from .folder import foreign_files, locked, read_bytes, remove_leftovers, shard_path
from .manifest import MANIFEST, Checkpoint, Manifest, Options, ShardPlan, ShardRecord, Source, digest_of
from .reading import read_manifest
from .rows import DataSets, Encoded, Rows, encode_shards, index_spec, open_rows
from .shard import adopt, notes_of

Progress = Callable[[int, int], None]
#: Seconds between two writes of the manifest.
_SECONDS = 1.0


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


def encode_dataset(
    model: Any,
    dataset: DataSets,
    out: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    rows_per_shard: int = 8192,
    log_variance: bool = False,
    budget: int | None = None,
    distortion: float | None = None,
    workers: int = 0,
    device: str | torch.device | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    checkpoint_path: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> EncodeResult:
    """Encode every image of a data set and write the tokens to a folder, or go on with a run that was stopped.

    What a shard holds depends on the model, the data and the options alone, so a run that was killed and repeated
    any number of times ends with the same files as one that was not. An image that cannot be read has no row, and is
    listed with the reason in ``skipped.jsonl`` beside the shards.

    Args:
        model: a tokenizer, or where one lies (see ``gmvq.training.load_model``).
        dataset: a recipe, a data set of ``open_images`` or any map-style data set of images, or several by split.
        out: the folder; created if needed.
        batch_size: images at a time. Part of the run: rounding may depend on it.
        rows_per_shard: images per shard; this many rows of tokens are held in memory.
        log_variance: store log s_c^2(x) beside the indices.
        budget, distortion: what a ``RaggedGMVQ`` may spend on an image, as in ``encode``; one of them, or none.
        workers: processes that read images ahead (local), or encode (ray; at least one).
        device: where to compute; default: where the model is.
        engine: "local", or "ray": shards are encoded by the workers of a Ray cluster and written here.
        ray_address: the cluster; default: one on this machine, for this run.
        checkpoint_path: where the model lies, for the manifest; known if ``model`` is a path.
        strict: stop at the first image that cannot be read.
        progress: called with (images done, images of all), after each batch.

    Raises:
        ValueError: the folder holds another run (the message names what differs), another process writes to it, or
            an argument is out of range.
        SkippedItemError: an image cannot be read, and ``strict`` is set.
        OSError: the disk is full; complete shards are kept.
        MissingExtraError: the package pyarrow or, for engine "ray", ray is absent.
    """
    require("pyarrow.parquet", "data")
    check_choice("engine", engine, ("local", "ray"))
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    for name, value in (("batch_size", batch_size), ("rows_per_shard", rows_per_shard)):
        check_size(name, value)
    if isinstance(model, str | os.PathLike):
        from ..training.checkpoint import load_model

        checkpoint_path = os.fspath(model)
        model = load_model(checkpoint_path)
    if device is not None:
        model = model.to(device)
    rows = open_rows(dataset)
    if strict:
        refuse_bad(rows.skipped)
    options = Options(batch_size, rows_per_shard, device_of(model).type, budget, distortion)
    manifest = _manifest(model, checkpoint_path, dataset, rows, options, log_variance)
    place = Path(out).expanduser()
    if place.exists() and not place.is_dir():
        raise ValueError(f"the tokens go to a folder, but {place} is a file; give another --out")
    place.mkdir(parents=True, exist_ok=True)
    with locked(place) as folder:
        run = Run(folder, manifest)
        run.check_space()
        missing, done = run.missing(), sum(record.images for record in run.records.values())

        def report(images: int) -> None:
            nonlocal done
            done += images
            if progress is not None:
                progress(done, manifest.images)

        report(0)
        if engine == "ray" and missing:
            from .ray_engine import encode_on_ray

            cluster = {"workers": workers, "address": ray_address}
            shards = encode_on_ray(model, dataset, missing, run.manifest, on_shard=report, **cluster)
        else:
            shards = encode_shards(model, rows, missing, run.manifest, workers=workers, on_batch=report)
        return run.finish(shards, rows.skipped, strict=strict)


def _manifest(
    model: Any, path: str | None, dataset: DataSets, rows: Rows, options: Options, log_variance: bool
) -> Manifest:
    """The manifest of a run that has encoded nothing yet."""
    recipe = dataset if isinstance(dataset, DataRecipe) else DataRecipe("")
    place = None if path is None else Path(path).expanduser()
    return Manifest(
        # A path that holds in any folder; the name of a repository on the Hub stays as it is.
        checkpoint=Checkpoint(str(real_path(place)) if place and place.exists() else path, digest_of(model)),
        quantizer=model.quantizer.to_config(),
        indices=index_spec(model, rows.image_shape, log_variance=log_variance, **options.spending),
        image_shape=rows.image_shape,
        data=Source(recipe.path or None, recipe.split, recipe.column, rows.fingerprint(), rows.splits),
        options=options,
        versions=versions("gmvq", "torch", "numpy", "pyarrow"),
    )


class Run:
    """What a folder holds of a run, and what is still missing."""

    def __init__(self, folder: Path, wanted: Manifest) -> None:
        self._folder = folder
        self._notes: list[str] = []
        check_own(folder)
        known = ()
        if (folder / MANIFEST).exists():
            old = read_manifest(folder)
            _check_same_run(old, wanted, folder)
            if old.versions != wanted.versions:
                self._notes.append(f"the run began with the versions {old.versions}, now: {wanted.versions}")
            wanted, known = structs.replace(wanted, versions=old.versions), old.shards
        else:
            for path in sorted(folder.glob("*.parquet")):
                ours = wanted.plan_of(path.name) and notes_of(reading.read_bytes(path), str(path))
                if ours and ours.run != wanted.fingerprint:
                    raise ValueError(
                        f"{folder} has no {MANIFEST}, and {path.name} belongs to another run; give another --out, or "
                        "delete the folder"
                    )
        if foreign := foreign_files(folder, wanted):
            raise ValueError(
                f"{folder} holds other files ({', '.join(foreign[:5])}); give a folder that is new, empty, or of this "
                "run"
            )
        if removed := remove_leftovers(folder):
            self._notes.append(f"removed what a killed run left half-written: {', '.join(removed)}")
        self.manifest = wanted
        self.records: dict[str, ShardRecord] = {}
        self.records = self._found({record.file: record for record in known})
        self._save()

    def missing(self) -> list[ShardPlan]:
        """The shards still to be encoded, in order."""
        return [plan for plan in self.manifest.plans() if plan.file not in self.records]

    def check_space(self) -> None:
        """Raise OSError if the disk has no room for half of what the missing indices take without compression."""
        spec, images = self.manifest.indices, sum(one.images for one in self.missing())
        bits = max(1, (spec.codebook_size - 1).bit_length()) + 32 * spec.log_variance
        check_space(self._folder, images * spec.length * bits // 16, "the rest of the tokens")

    def finish(self, shards: Iterator[Encoded], skipped: Sequence[Skipped], *, strict: bool) -> EncodeResult:
        """Write every shard that comes, and the manifest once a second: a shard it has not heard of is taken over.

        ``skipped`` is what the data set left out when it was opened; with what has no row it goes to ``skipped.jsonl``.
        If ``strict`` a shard that lacks a row raises SkippedItemError.
        """
        encoded, saved = 0, time.monotonic()
        try:
            for data, record in shards:
                if strict:
                    refuse_bad((one.name, one.reason) for one in record.skipped)
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
            raise OSError(
                error.errno,
                f"{path}: {error.strerror or error}. What is complete is kept ({len(self.records)} of "
                f"{self.manifest.shard_count} shards): mend it and run the same command again to go on",
            ) from error


def _check_same_run(old: Manifest, new: Manifest, folder: object) -> None:
    """Raise ValueError unless ``new`` goes on with ``old``; the message names everything that differs."""
    then, now = old.identity(), new.identity()
    changed = [f"{key} ({then.get(key)} there, {now[key]} here)" for key in now if then.get(key) != now[key]]
    if changed or old.fingerprint != new.fingerprint:
        raise ValueError(
            f"{folder} holds tokens of another run, and the two must not mix. What differs: "
            f"{'; '.join(changed) or 'the digests'}. Repeat the command as it was, give another --out, or delete the "
            "folder to encode anew"
        )

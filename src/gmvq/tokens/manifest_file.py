"""Reading ``manifest.json``: a file that may have been cut short, edited or made up is checked entry by entry.

A shard's name is accepted only if it is the one that the run's plan gives it, so no entry leads out of the folder.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from . import plan
from .fields import Fields
from .manifest import FORMAT, FORMAT_VERSION, MANIFEST, IndexSpec, Manifest, ShardRecord, Skipped
from .plan import SplitRecord


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a folder of tokens.

    Raises:
        FileNotFoundError: no such folder, or no manifest in it.
        ValueError: the manifest is cut short, of another kind or version, or contradicts itself.
    """
    file = folder / MANIFEST
    if not file.is_file():
        what = "no manifest.json in it" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"{folder} is no folder of tokens: {what}; gmvq encode writes one")
    try:
        data = json.loads(file.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not valid JSON ({error}); delete it and run the same gmvq encode again: it takes over the "
            "shards that are there"
        ) from error
    return parse_manifest(data, str(file))


def parse_manifest(data: object, where: str) -> Manifest:
    """Check the parsed JSON of a manifest; ``where`` names it in errors.

    Raises:
        ValueError: an entry is missing, of another type, out of range, or in contradiction to another.
    """
    top = Fields(data, where)
    if top.optional_text("format") != FORMAT:
        raise ValueError(f"{where} is no manifest of tokens: expected the entry 'format' to be {FORMAT!r}")
    if top.number("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{where}: expected format_version {FORMAT_VERSION}, got {top.number('format_version')}; a higher one "
            "comes from a newer gmvq: upgrade with pip install -U gmvq"
        )
    checkpoint, indices, source, options = (
        top.inner(key) for key in ("checkpoint", "indices", "data", "options")
    )
    spec = IndexSpec(
        shape=indices.numbers("shape"),
        codebook_size=indices.number("codebook_size", 1, 1 << 31),
        levels=indices.number("levels", 1),
        log_variance=top.flag("log_variance"),
    )
    if not 1 <= spec.length < 1 << 31 or (spec.levels > 1 and spec.shape[-1] != spec.levels):
        raise ValueError(f"{where}: indices of shape {spec.shape} with {spec.levels} level(s) cannot be")
    manifest = Manifest(
        checkpoint_path=checkpoint.optional_text("path"),
        checkpoint_sha256=checkpoint.digest("sha256"),
        quantizer=top.table("quantizer"),
        indices=spec,
        image_shape=top.numbers("image_shape"),
        data_path=source.optional_text("path"),
        data_split=source.text("split"),
        data_column=source.optional_text("column"),
        data_fingerprint=source.digest("fingerprint"),
        splits=_splits(source),
        batch_size=options.number("batch_size", 1),
        rows_per_shard=options.number("rows_per_shard", 1),
        device=options.text("device"),
        versions=top.table("versions"),
    )
    manifest = dataclasses.replace(manifest, shards=_shards(top, manifest))
    for key, value in (("rows", manifest.rows), ("images", manifest.images), ("complete", manifest.complete)):
        if top.value(key) != value:
            raise ValueError(
                f"{where} contradicts itself: {key!r} is {top.value(key)!r}, its parts say {value!r}"
            )
    return manifest


def _splits(source: Fields) -> tuple[SplitRecord, ...]:
    found: list[SplitRecord] = []
    for entry in source.tables("splits"):
        name = entry.text("name")
        plan.check_split_name(name)
        start = found[-1].first_id + found[-1].images if found else 0
        record = SplitRecord(
            name, entry.number("first_id"), entry.number("images", 1), entry.text("description")
        )
        if record.first_id != start or name in {split.name for split in found}:
            raise ValueError(
                f"{entry.where}: expected another split, beginning with id {start}; got {record}"
            )
        found.append(record)
    if not found:
        raise ValueError(f"{source.where}: there is no split")
    return tuple(found)


def _shards(top: Fields, manifest: Manifest) -> tuple[ShardRecord, ...]:
    found: list[ShardRecord] = []
    for entry in top.tables("shards"):
        record = ShardRecord(
            file=entry.text("file"),
            split=entry.text("split"),
            first_id=entry.number("first_id"),
            images=entry.number("images", 1),
            rows=entry.number("rows"),
            bytes=entry.number("bytes", 1),
            sha256=entry.digest("sha256"),
            content_sha256=entry.digest("content_sha256"),
            skipped=tuple(
                Skipped(one.number("id"), one.text("name"), one.text("reason"))
                for one in entry.tables("skipped")
            ),
        )
        if plan.shard_named(record.file, manifest.splits, manifest.rows_per_shard) != record.plan:
            raise ValueError(
                f"{entry.where}: {record.file!r} with images {record.first_id} to "
                f"{record.first_id + record.images - 1} is no shard of this run"
            )
        ids = [one.id for one in record.skipped]
        inside = range(record.first_id, record.first_id + record.images)
        if (
            record.rows + len(ids) != record.images
            or ids != sorted(set(ids))
            or any(i not in inside for i in ids)
        ):
            raise ValueError(
                f"{entry.where}: {record.rows} rows and {len(ids)} skipped images do not make {record.images}"
            )
        if found and record.first_id <= found[-1].first_id:
            raise ValueError(f"{entry.where}: {record.file!r} is out of order, or there twice")
        found.append(record)
    return tuple(found)

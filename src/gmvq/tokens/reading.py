"""Reading ``manifest.json``: JSON that may have been cut short, edited or made up.

msgspec checks every entry's type and range and says where it stands; what is left here is how entries belong together.
A shard's name is accepted only if it is the one that the run's plan gives it, so no entry leads out of the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..errors import as_value_error, check_version
from ..reading import MOST_TEXT, read_bytes
from .manifest import FORMAT, FORMAT_VERSION, MANIFEST, Manifest

_WRONG = (msgspec.MsgspecError, ValueError, RecursionError)


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
    return parse_manifest(read_bytes(file, MOST_TEXT), str(file))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Check the text of a manifest; ``where`` names it in errors."""
    hint = "delete it and run the same gmvq encode again: it takes over the shards that are there"
    with as_value_error(f"{where} is not valid JSON; {hint}", *_WRONG):
        data = msgspec.json.decode(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{where} is no manifest of tokens: expected the entry 'format' to be {FORMAT!r}")
    check_version(where, data.get("format_version"), FORMAT_VERSION)
    if isinstance(data.get("indices"), dict) and "log_variance" in data:
        data["indices"]["log_variance"] = data["log_variance"]
    with as_value_error(where, *_WRONG):
        manifest = msgspec.convert(data, Manifest)
    for problem in _problems(manifest):
        raise ValueError(f"{where}: {problem}")
    for key, value in (("rows", manifest.rows), ("images", manifest.images), ("complete", manifest.complete)):
        if data.get(key) != value:
            raise ValueError(
                f"{where} contradicts itself: {key!r} is {data.get(key)!r:.80}, its parts say {value!r}"
            )
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """What in a manifest contradicts itself, in words."""
    spec = manifest.indices
    if spec.length >= 1 << 31 or (spec.levels > 1 and spec.shape[-1] != spec.levels):
        yield f"indices of shape {spec.shape} with {spec.levels} level(s) cannot be"
    each = spec.codebook_size_per_level  # without it nothing of the length that the file says is made
    if each and (len(each) != spec.levels or max(each) != spec.codebook_size):
        yield f"codebooks of {each[:8]} codes are not those of {spec.levels} level(s) of {spec.codebook_size}"
    if spec.scales > 1 and (spec.levels > 1 or spec.pyramid):
        yield f"blocks of {spec.scales} sizes have one level, got {spec.levels}"
    start, names = 0, [split.name for split in manifest.splits]
    for split in manifest.splits:
        if split.first_id != start:
            yield f"expected another split, beginning with id {start}; got {split}"
        start += split.images
    if len(set(names)) < len(names):
        yield f"a split is there twice: {', '.join(names)}"
    yield from _problems_of_shards(manifest)


def _problems_of_shards(manifest: Manifest) -> Iterator[str]:
    last = -1
    for record in manifest.shards:
        first, ids = record.first_id, [one.id for one in record.skipped]
        planned = manifest.plan_of(record.file)
        holds = (record.split, first, record.images)
        if planned is None or (planned.split, planned.first_id, planned.images) != holds:
            yield f"{record.file!r} with images {first} to {first + record.images - 1} is no shard of this run"
        ordered = ids == sorted(set(ids)) and all(first <= i < first + record.images for i in ids)
        if not ordered or record.rows + len(ids) != record.images:
            yield f"{record.file}: {record.rows} rows and {len(ids)} skipped images do not make {record.images}"
        if first <= last:
            yield f"{record.file!r} is out of order, or there twice"
        last = first

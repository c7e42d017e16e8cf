"""``manifest.json``: what a folder of tokens holds, where it came from, and the digest of every shard.

It bears no date and no name of a machine, so two runs on the same data with the same model write the same file.
The structs are the file's objects; ``reading`` checks one that may have been cut short, edited or made up.

Ids count the images of all splits, one split after the other. A shard holds consecutive ids of one split, a batch
consecutive ids of one shard: what a shard holds depends on nothing that happened before or beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct, structs, to_builtins

from ..models.weights import model_digest

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "gmvq-tokens", 1

#: Numbers that sums of are still 64-bit integers.
Count = Annotated[int, Meta(ge=0, lt=1 << 62)]
Size = Annotated[int, Meta(ge=1, lt=1 << 62)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=1, lt=1 << 31)], ...], Meta(min_length=1, max_length=8)]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_SPLIT = r"[a-z0-9_]{1,64}"
_FILE = re.compile(rf"({_SPLIT})-(\d{{5,18}})-of-(\d{{5,18}})\.parquet")


class ShardPlan(Struct, frozen=True):
    """What one shard holds: ``images`` images of ``split`` from id ``first_id`` on."""

    file: str
    split: str
    first_id: Count
    images: Size

    def batches(self, batch_size: int) -> Iterator[range]:
        """The ids of each batch, in order."""
        end = self.first_id + self.images
        for start in range(self.first_id, end, batch_size):
            yield range(start, min(start + batch_size, end))


class SplitRecord(Struct, frozen=True):
    """One split of the data: its name, the id of its first image, the number of its images, and what it is."""

    name: Annotated[str, Meta(pattern=rf"\A{_SPLIT}\Z")]
    first_id: Count
    images: Size
    description: str

    def shard_count(self, rows_per_shard: int) -> int:
        return -(-self.images // rows_per_shard)

    def shard(self, number: int, rows_per_shard: int) -> ShardPlan:
        """The plan of the shard of this number, from 0."""
        file = f"{self.name}-{number:05d}-of-{self.shard_count(rows_per_shard):05d}.parquet"
        start = number * rows_per_shard
        images = min(rows_per_shard, self.images - start)
        return ShardPlan(file, self.name, self.first_id + start, images)


class Skipped(Struct, frozen=True):
    """An image that could not be decoded: it has an id, but no row."""

    id: Count
    name: str
    reason: str


class ShardRecord(ShardPlan, frozen=True):
    """A complete shard: its plan, its file's size and SHA-256, and the SHA-256 of its columns."""

    rows: Count
    bytes: Size
    sha256: Digest
    content_sha256: Digest
    skipped: tuple[Skipped, ...]


class IndexSpec(Struct, frozen=True):
    """The tokens of one image: indices of shape ``shape`` in [0, K), the levels (if any) on the last axis.

    ``codebook_size`` is K, the largest where levels differ; without ``codebook_size_per_level`` all have it. Those of
    a ``pyramid`` are scales, a code for each block of positions and -1 elsewhere. With several ``scales`` blocks of
    side 1 to 2^(scales-1) have one code, and a row as many codes as its tree has leaves (``gmvq.quantizers.leaves``).
    ``log_variance`` says whether log s_c^2(x) is stored beside the indices.
    """

    shape: Shape
    codebook_size: Annotated[int, Meta(ge=1, le=1 << 31)]
    levels: Size = 1
    log_variance: bool = False
    pyramid: bool = False
    scales: Annotated[int, Meta(ge=1, le=64)] = 1
    codebook_size_per_level: tuple[Annotated[int, Meta(ge=1, le=1 << 31)], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.codebook_size_per_level or (self.codebook_size,) * self.levels

    @property
    def codes(self) -> str:
        """K in words, that of each level where they differ."""
        each = self.codebook_size_per_level
        return " + ".join(map(str, each if len(set(each)) > 1 else (self.codebook_size,)))

    @property
    def lowest(self) -> int:
        """The least index: -1 where a pyramid has no code, or 0."""
        return -1 if self.pyramid else 0

    @property
    def dtype(self) -> str:
        """The smallest of int16 and int32 that holds K - 1."""
        return "int16" if self.codebook_size <= 1 << 15 else "int32"

    @property
    def length(self) -> int:
        """Indices per image."""
        return math.prod(self.shape)


class Checkpoint(Struct, frozen=True):
    """The model that made the tokens: where it lay, and the digits of its ``model_digest``."""

    path: str | None
    sha256: Digest


class Source(Struct, frozen=True):
    """The images: how they were opened, and a fingerprint of what was found."""

    path: str | None
    split: str
    column: str | None
    fingerprint: Digest
    splits: Annotated[tuple[SplitRecord, ...], Meta(min_length=1)]


class Options(Struct, frozen=True, omit_defaults=True):
    """What a user chose; ``device`` is its kind, such as "cuda"; ``budget`` and ``distortion`` as of ``RaggedGMVQ``."""

    batch_size: Size
    rows_per_shard: Size
    device: str
    budget: Size | None = None
    distortion: Annotated[float, Meta(ge=0)] | None = None

    @property
    def spending(self) -> dict[str, Any]:
        """Budget or distortion, if one was given."""
        given = {"budget": self.budget, "distortion": self.distortion}
        return {name: value for name, value in given.items() if value is not None}


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything about a folder of tokens; see docs/tokens.md for the entries of the file."""

    checkpoint: Checkpoint
    quantizer: dict[str, Any]
    indices: IndexSpec
    image_shape: Shape
    data: Source
    options: Options
    versions: dict[str, Any]
    shards: tuple[ShardRecord, ...] = ()

    @property
    def splits(self) -> tuple[SplitRecord, ...]:
        return self.data.splits

    @property
    def images(self) -> int:
        """Images of the data, those not encoded yet included."""
        return sum(split.images for split in self.splits)

    @property
    def rows(self) -> int:
        """Rows in the complete shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def shard_count(self) -> int:
        return sum(split.shard_count(self.options.rows_per_shard) for split in self.splits)

    @property
    def complete(self) -> bool:
        return len(self.shards) == self.shard_count

    @property
    def unfinished(self) -> str:
        """What is missing, and what to do; empty for a complete run."""
        shards = f"{len(self.shards)} of {self.shard_count} shards"
        text = f"is not finished: {shards}; run the same gmvq encode again to go on"
        return "" if self.complete else text

    @property
    def skipped(self) -> list[Skipped]:
        """Images that could not be decoded, in the order of their ids."""
        return [one for shard in self.shards for one in shard.skipped]

    def plan_of(self, file: str) -> ShardPlan | None:
        """The shard of this file name; None where the run has none, as for a name that leads out of the folder."""
        parts, rows = _FILE.fullmatch(file), self.options.rows_per_shard
        for split in self.splits:
            if parts and split.name == parts[1] and int(parts[2]) < split.shard_count(rows):
                shard = split.shard(int(parts[2]), rows)
                return shard if shard.file == file else None
        return None

    def plans(self) -> Iterator[ShardPlan]:
        """Every shard, in the order of the ids."""
        rows = self.options.rows_per_shard
        for split in self.splits:
            yield from (split.shard(number, rows) for number in range(split.shard_count(rows)))

    def identity(self) -> dict[str, Any]:
        """What has to be the same for two tries to be one run, by the name that a user knows it by."""
        found = {
            "the checkpoint": f"sha256 {self.checkpoint.sha256[:16]}",
            "the data": f"fingerprint {self.data.fingerprint[:16]}",
            "the splits": ", ".join(f"{split.name} of {split.images} images" for split in self.splits),
            "the images' shape": "x".join(map(str, self.image_shape)),
            "the indices' shape": "x".join(map(str, self.indices.shape)),
            "the codebook": f"{self.indices.codes} codes, {self.indices.levels} level(s)",
            "--log_variance": self.indices.log_variance,
            "--batch_size": self.options.batch_size,
            "--rows_per_shard": self.options.rows_per_shard,
            "the kind of --device": self.options.device,
        }
        # The runs of models that have neither keep their fingerprint.
        spending = {"--budget or --distortion": self.options.spending or "none"}
        return found | (spending if self.indices.scales > 1 else {})

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what makes a run: ``run`` in the file, and in the metadata of every shard."""
        whole = [self.checkpoint.sha256, self.data.fingerprint, self.identity(), FORMAT_VERSION]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def with_shards(self, records: dict[str, ShardRecord]) -> Manifest:
        """The same with these complete shards, in the order of their ids."""
        ordered = tuple(sorted(records.values(), key=lambda record: record.first_id))
        return structs.replace(self, shards=ordered)

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        entries, spec = to_builtins(self), self.indices
        entries["indices"] = {
            "shape": spec.shape,
            "dtype": spec.dtype,
            "codebook_size": spec.codebook_size,
            "levels": spec.levels,
            "codebook_size_per_level": spec.sizes,
            **({"pyramid": True} if spec.pyramid else {}),
            **({"scales": spec.scales} if spec.scales > 1 else {}),
        }
        head = {name: entries.pop(name) for name in ("checkpoint", "quantizer", "indices")}
        data = {
            **{"format": FORMAT, "format_version": FORMAT_VERSION, "complete": self.complete},
            **{"images": self.images, "rows": self.rows, "run": self.fingerprint},
            **head,
            "log_variance": spec.log_variance,
            **entries,
        }
        return json.dumps(data, indent=1) + "\n"


def digest_of(model: Any) -> str:
    """The hexadecimal digits of ``model_digest``: one number for a checkpoint and its exports."""
    return model_digest(model).removeprefix("sha256:")


def check_split_name(name: str) -> None:
    """Raise ValueError unless ``name`` can be part of a file name: small letters, digits and underscores."""
    if not re.fullmatch(_SPLIT, name):
        raise ValueError(
            f"a split is named by up to 64 small letters, digits and underscores, got {name!r}; rename it"
        )


def looks_like_shard(file: str) -> bool:
    """Whether a file name is one that some run gives to a shard."""
    return _FILE.fullmatch(file) is not None

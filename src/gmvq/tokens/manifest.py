"""``manifest.json``: what a folder of tokens holds, where it came from, and the digest of every shard.

It bears no date and no name of a machine, so two runs on the same data with the same model write the same file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from . import plan
from .plan import ShardPlan, SplitRecord

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "gmvq-tokens", 1


@dataclass(frozen=True)
class Skipped:
    """An image that could not be decoded: it has an id, but no row."""

    id: int
    name: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """A complete shard: its plan, its file's size and SHA-256, and the SHA-256 of its columns."""

    file: str
    split: str
    first_id: int
    images: int
    rows: int
    bytes: int
    sha256: str
    content_sha256: str
    skipped: tuple[Skipped, ...] = ()

    @property
    def plan(self) -> ShardPlan:
        return ShardPlan(self.file, self.split, self.first_id, self.images)


@dataclass(frozen=True)
class IndexSpec:
    """The tokens of one image: indices of shape ``shape`` in [0, K), the levels (if any) on the last axis.

    Attributes:
        shape: as the model emits them for one image: (H', W'), or (H', W', levels).
        codebook_size: K, of every level.
        levels: codes per latent position: residual levels or groups; 1 for a plain quantizer.
        log_variance: whether log s_c^2(x) is stored beside the indices.
    """

    shape: tuple[int, ...]
    codebook_size: int
    levels: int = 1
    log_variance: bool = False

    @property
    def dtype(self) -> str:
        """The smallest of int16 and int32 that holds K - 1."""
        return "int16" if self.codebook_size <= 1 << 15 else "int32"

    @property
    def length(self) -> int:
        """Indices per image."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """Everything about a folder of tokens; see docs/tokens.md for the entries of the file."""

    checkpoint_path: str | None
    checkpoint_sha256: str
    quantizer: dict[str, Any]
    indices: IndexSpec
    image_shape: tuple[int, ...]
    data_path: str | None
    data_split: str
    data_column: str | None
    data_fingerprint: str
    splits: tuple[SplitRecord, ...]
    batch_size: int
    rows_per_shard: int
    device: str
    versions: dict[str, Any] = field(default_factory=dict)
    shards: tuple[ShardRecord, ...] = ()

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
        return plan.shard_count(self.splits, self.rows_per_shard)

    @property
    def complete(self) -> bool:
        return len(self.shards) == self.shard_count

    @property
    def skipped(self) -> list[Skipped]:
        """Images that could not be decoded, in the order of their ids."""
        return [one for shard in self.shards for one in shard.skipped]

    def identity(self) -> dict[str, Any]:
        """What has to be the same for two tries to be one run, by the name that a user knows it by."""
        return {
            "the checkpoint": f"sha256 {self.checkpoint_sha256[:16]}",
            "the data": f"fingerprint {self.data_fingerprint[:16]}",
            "the splits": ", ".join(f"{split.name} of {split.images} images" for split in self.splits),
            "the images' shape": "x".join(map(str, self.image_shape)),
            "the indices' shape": "x".join(map(str, self.indices.shape)),
            "the codebook": f"{self.indices.codebook_size} codes, {self.indices.levels} level(s)",
            "--log_variance": self.indices.log_variance,
            "--batch_size": self.batch_size,
            "--rows_per_shard": self.rows_per_shard,
            "the kind of --device": self.device,
        }

    @property
    def run(self) -> str:
        """The fingerprint of the run, which every shard bears in its metadata."""
        whole = [self.checkpoint_sha256, self.data_fingerprint, self.identity(), FORMAT_VERSION]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def with_shards(self, records: dict[str, ShardRecord]) -> Manifest:
        """The same with these complete shards, in the order of their ids."""
        ordered = tuple(sorted(records.values(), key=lambda record: record.first_id))
        return dataclasses.replace(self, shards=ordered)

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        spec = self.indices
        data = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": self.complete,
            "images": self.images,
            "rows": self.rows,
            "run": self.run,
            "checkpoint": {"path": self.checkpoint_path, "sha256": self.checkpoint_sha256},
            "quantizer": self.quantizer,
            "indices": {
                "shape": list(spec.shape),
                "dtype": spec.dtype,
                "codebook_size": spec.codebook_size,
                "levels": spec.levels,
                "codebook_size_per_level": [spec.codebook_size] * spec.levels,
            },
            "log_variance": spec.log_variance,
            "image_shape": list(self.image_shape),
            "data": {
                "path": self.data_path,
                "split": self.data_split,
                "column": self.data_column,
                "fingerprint": self.data_fingerprint,
                "splits": [dataclasses.asdict(split) for split in self.splits],
            },
            "options": {
                "batch_size": self.batch_size,
                "rows_per_shard": self.rows_per_shard,
                "device": self.device,
            },
            "versions": self.versions,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        return json.dumps(data, indent=1) + "\n"

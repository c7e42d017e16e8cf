"""How the rows of a set are cut into shards and batches: arithmetic alone, the same for every engine and every try.

Ids count the images of all splits, one split after the other. A shard holds consecutive ids of one split, a batch
consecutive ids of one shard; so what a shard holds depends on nothing that happened before or beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta, Struct

_FILE = re.compile(r"([a-z0-9_]{1,64})-(\d{5,18})-of-(\d{5,18})\.parquet")
_SPLIT = re.compile(r"[a-z0-9_]{1,64}")


class SplitRecord(Struct, frozen=True):
    """One split of the data: its name, the id of its first image, the number of its images, and what it is."""

    name: Annotated[str, Meta(pattern=r"\A[a-z0-9_]{1,64}\Z")]
    first_id: Annotated[int, Meta(ge=0, lt=1 << 62)]
    images: Annotated[int, Meta(ge=1, lt=1 << 62)]
    description: str


class ShardPlan(Struct, frozen=True):
    """What one shard holds: ``images`` images of ``split`` from id ``first_id`` on."""

    file: str
    split: str
    first_id: int
    images: int

    def batches(self, batch_size: int) -> Iterator[range]:
        """The ids of each batch, in order."""
        end = self.first_id + self.images
        for start in range(self.first_id, end, batch_size):
            yield range(start, min(start + batch_size, end))


def check_split_name(name: str) -> None:
    """Raise ValueError unless ``name`` can be part of a file name: small letters, digits and underscores."""
    if not _SPLIT.fullmatch(name):
        raise ValueError(
            f"a split is named by up to 64 small letters, digits and underscores, got {name!r}; rename it"
        )


def shard_count(splits: Sequence[SplitRecord], rows_per_shard: int) -> int:
    """The number of shards of all splits."""
    return sum(-(-split.images // rows_per_shard) for split in splits)


def shards(splits: Sequence[SplitRecord], rows_per_shard: int) -> Iterator[ShardPlan]:
    """Every shard, in the order of the ids."""
    for split in splits:
        for number in range(-(-split.images // rows_per_shard)):
            yield _shard(split, number, rows_per_shard)


def shard_named(file: str, splits: Sequence[SplitRecord], rows_per_shard: int) -> ShardPlan | None:
    """The shard that has this file name, or None where the plan has no such shard.

    A name that is a path, or leads out of the folder, is no shard's.
    """
    parts = _FILE.fullmatch(file)
    if parts is None:
        return None
    split = next((split for split in splits if split.name == parts[1]), None)
    if split is None or int(parts[2]) >= -(-split.images // rows_per_shard):
        return None
    shard = _shard(split, int(parts[2]), rows_per_shard)
    return shard if shard.file == file else None


def looks_like_shard(file: str) -> bool:
    """Whether a file name is one that some plan gives to a shard."""
    return _FILE.fullmatch(file) is not None


def _shard(split: SplitRecord, number: int, rows_per_shard: int) -> ShardPlan:
    start = number * rows_per_shard
    count = -(-split.images // rows_per_shard)
    return ShardPlan(
        file=f"{split.name}-{number:05d}-of-{count:05d}.parquet",
        split=split.name,
        first_id=split.first_id + start,
        images=min(rows_per_shard, split.images - start),
    )

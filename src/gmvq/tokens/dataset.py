"""``TokenDataset``: tokens as a map-style torch data set in constant memory, by mapping a file of the folder."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .arrow_cache import arrow_file, map_file
from .decode import check_split
from .folder import open_run
from .manifest import Manifest

Item = dict[str, Any]


class TokenDataset(Dataset[Item]):
    """The rows of a finished run, in the order of their ids.

    An item is ``{"indices": int64 tensor of the index shape, "label": int, "id": int}``, with label -1 where there is
    none, and with ``"log_variance"``, a float32 tensor of the same shape, if asked for. The default ``collate`` of a
    ``DataLoader`` makes batches of them.

    On first use the shards, checked against their digests, are copied to one Arrow file in ``.cache`` of the folder
    (or in ``cache_dir``), which is then mapped into memory by every process that reads. The object pickles small.

    Args:
        folder: where ``encode_dataset`` wrote to.
        split: rows of this split only.
        log_variance: add the log-variances to the items.
        cache_dir: where the Arrow file goes, if the folder cannot be written to.

    Raises:
        FileNotFoundError: no folder of tokens.
        ValueError: the run has not ended, a shard is damaged, no such split, or no log-variances were stored.

    Example:
        >>> dataset = TokenDataset("tokens/photos", split="train")
        >>> dataset[0]["indices"].shape
        torch.Size([8, 8])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        split: str | None = None,
        log_variance: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        path, manifest = open_run(folder)
        check_split(manifest, split)
        if log_variance and not manifest.indices.log_variance:
            raise ValueError(f"{path} holds no log-variances; encode with --log_variance")
        self.manifest = manifest
        self._file = arrow_file(path, manifest, cache_dir)
        self._log_variance = log_variance
        self._ends = np.cumsum([shard.rows for shard in manifest.shards], dtype=np.int64)
        self._start, self._stop = _range(manifest, split)
        self._open: tuple[Any, dict[int, dict[str, NDArray[Any]]]] | None = None

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape of one image's indices."""
        return self.manifest.indices.shape

    @property
    def codebook_size(self) -> int:
        """K, of every level."""
        return self.manifest.indices.codebook_size

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Fetch several items at once; the data loader calls this."""
        batch = self.rows(np.array([self._position(index) for index in indices], dtype=np.int64))
        keys = [key for key in ("indices", "log_variance") if key in batch]
        labels, ids = batch["label"].tolist(), batch["id"].tolist()
        return [
            {**{key: batch[key][row] for key in keys}, "label": labels[row], "id": ids[row]}
            for row in range(len(indices))
        ]

    def rows(self, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """Many rows as one batch: indices (B, *index_shape), label (B,), id (B,), log_variance if asked for."""
        positions = positions + self._start
        shards = np.searchsorted(self._ends, positions, side="right")
        out = self._empty(len(positions))
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            first = int(self._ends[shard - 1]) if shard else 0
            views = self._views(shard)
            for key, values in out.items():
                values[places] = views[key][positions[places] - first]
        shape = (len(positions), *self.index_shape)
        tensors = {key: torch.from_numpy(values) for key, values in out.items()}
        return {key: value.view(shape) if value.ndim == 2 else value for key, value in tensors.items()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def _empty(self, count: int) -> dict[str, NDArray[Any]]:
        length = self.manifest.indices.length
        out: dict[str, NDArray[Any]] = {"indices": np.empty((count, length), np.int64)}
        if self._log_variance:
            out["log_variance"] = np.empty((count, length), np.float32)
        return out | {"label": np.empty(count, np.int64), "id": np.empty(count, np.int64)}

    def _views(self, shard: int) -> dict[str, NDArray[Any]]:
        """Arrays over the mapped file; nothing is copied."""
        if self._open is None:
            self._open = (map_file(self._file), {})
        reader, known = self._open
        if shard not in known:
            batch = reader.get_batch(shard)
            length = self.manifest.indices.length
            views = {"id": batch.column("id").to_numpy(), "label": batch.column("label").to_numpy()}
            for key in ("indices", "log_variance") if self._log_variance else ("indices",):
                views[key] = batch.column(key).flatten().to_numpy(zero_copy_only=True).reshape(-1, length)
            known[shard] = views
        return known[shard]

    def _position(self, index: int) -> int:
        position, length = operator.index(index), len(self)
        if not -length <= position < length:
            raise IndexError(f"index {position} is out of range for {length} rows of tokens")
        return position % length


def _range(manifest: Manifest, split: str | None) -> tuple[int, int]:
    """The rows of a split, first and behind the last; a shard is of one split."""
    before = 0
    for shard in manifest.shards:
        if split is None or shard.split == split:
            break
        before += shard.rows
    return before, before + sum(shard.rows for shard in manifest.shards if split in (None, shard.split))

"""``TokenDataset`` and ``TokenStream``: tokens as torch data sets in constant memory, by mapping a file of the folder.

Parquet is compressed and cannot be mapped, so the shards are copied to one array of records. The name of the file holds
the digest of the shards' digests, and its own SHA-256 lies beside it and is compared at each opening: a file of other
tokens, or one that was changed, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..data.arrays import read_npy
from ..data.dataset import position
from ..data.randomness import permutation
from ..files import atomic_write, inside, open_new, write_json
from ..functional.distributed import world_size as processes
from ..reading import open_input, read_json
from .decode import check_split
from .folder import CACHE, open_run, read_shard
from .manifest import IndexSpec, Manifest

Item = dict[str, Any]
#: Rows that a stream reads at a time.
_BLOCK = 1024
#: SHA-256 of files by name, number, size and times.
_KNOWN: dict[tuple[str, int, int, int, int], str] = {}


class TokenDataset(Dataset[Item]):
    """The rows of a finished run, in the order of their ids.

    An item is ``{"indices": int64 tensor of the index shape, "label": int, "id": int}``, with label -1 where there is
    none, and with ``"log_variance"``, a float32 tensor of the same shape, if asked for. The default ``collate`` of a
    ``DataLoader`` makes batches of them.

    On first use the shards, checked against their digests, are copied to one .npy file in ``.cache`` of the folder
    (or in ``cache_dir``), which is then mapped into memory by every process that reads. The object pickles small.

    Args:
        folder: where ``encode_dataset`` wrote to.
        split: rows of this split only.
        log_variance: add the log-variances to the items.
        cache_dir: where that file goes, if the folder cannot be written to.

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
        self._file = _mapped_file(path, manifest, cache_dir)
        self._log_variance = log_variance
        self._start, self._stop = _range(manifest, split)
        self._records: NDArray[Any] | None = None

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape of one image's indices."""
        return self.manifest.indices.shape

    @property
    def codebook_size(self) -> int:
        """K, the largest where levels differ."""
        return self.manifest.indices.codebook_size

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Fetch several items at once; the data loader calls this."""
        batch: dict[str, Any] = self.rows(np.array([position(i, len(self)) for i in indices], dtype=np.int64))
        batch |= {name: batch[name].tolist() for name in ("label", "id")}
        return [{name: values[row] for name, values in batch.items()} for row in range(len(indices))]

    def rows(self, positions: NDArray[np.int64]) -> dict[str, Tensor]:
        """Many rows as one batch: indices (B, *index_shape), label (B,), id (B,), log_variance if asked for."""
        if self._records is None:
            self._records = read_npy(self._file, "")
        found = self._records[positions + self._start]
        grid = (len(positions), *self.index_shape)
        out = {"indices": torch.from_numpy(found["indices"].astype(np.int64)).view(grid)}
        if self._log_variance:
            out["log_variance"] = torch.from_numpy(found["log_variance"].copy()).view(grid)
        return out | {name: torch.from_numpy(found[name].copy()) for name in ("label", "id")}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}


class TokenStream(IterableDataset[Item]):
    """Every row of a finished run once per epoch, each to one process and one of its loader's workers.

    Items are those of ``TokenDataset``. The order of an epoch is a function of (seed, epoch) and the number of rows
    alone. Process r of W takes the places r, r + W, ... of it, worker w of n every n-th of those.

    Args:
        folder: where ``encode_dataset`` wrote to, or a ``TokenDataset``.
        shuffle: a new order for every epoch; else by id.
        seed: of the order.
        rank, world_size: of the processes; default: those of ``torch.distributed`` where it runs, else one process.
        even: leave out the last places so that every process has as many rows, as DDP needs; another seed or epoch
            leaves out others. Without it the counts differ by at most one, and nothing is left out.
        split, log_variance, cache_dir: as for ``TokenDataset``.

    Example:
        >>> stream = TokenStream("tokens/photos", split="train", even=True)
        >>> loader = torch.utils.data.DataLoader(stream, batch_size=64, num_workers=2)
        >>> for epoch in range(2):
        ...     stream.set_epoch(epoch)
        ...     for batch in loader:
        ...         indices = batch["indices"]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | TokenDataset,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        even: bool = False,
        split: str | None = None,
        log_variance: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError("give rank and world_size, or neither")
        if rank is None or world_size is None:
            world_size = processes()
            rank = torch.distributed.get_rank() if world_size > 1 else 0
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size - 1}], got {rank}")
        if isinstance(folder, TokenDataset):
            self.dataset = folder
        else:
            self.dataset = TokenDataset(folder, split=split, log_variance=log_variance, cache_dir=cache_dir)
        self._shuffle, self._seed, self._even = shuffle, seed, even
        self._rank, self._world_size = rank, world_size
        # Shared memory: workers that live on from epoch to epoch see what set_epoch sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; call it before each epoch, with the same number in every process."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Rows of this process, over all of its workers."""
        whole, rest = divmod(len(self.dataset), self._world_size)
        return whole + (not self._even and self._rank < rest)

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = int(self._epoch)
        mine = range(number, len(self), workers)
        order = permutation(self._seed, epoch, len(self.dataset)) if self._shuffle else None
        for start in range(0, len(mine), _BLOCK):
            chosen = mine[start : start + _BLOCK]
            places = np.arange(chosen.start, chosen.stop, chosen.step, dtype=np.int64)
            places = places * self._world_size + self._rank
            yield from self.dataset.__getitems__((places if order is None else order[places]).tolist())


def _range(manifest: Manifest, split: str | None) -> tuple[int, int]:
    """The rows of a split, first and behind the last; a shard is of one split."""
    ends = np.cumsum([0, *(shard.rows for shard in manifest.shards)]).tolist()
    own = [i for i, shard in enumerate(manifest.shards) if split in (None, shard.split)]
    return ends[own[0]], ends[own[-1] + 1]


def _mapped_file(folder: Path, manifest: Manifest, cache_dir: str | os.PathLike[str] | None) -> Path:
    """The rows of a finished run as an .npy file of records, made if it is absent, changed, or of other shards."""
    key = json.dumps([2, manifest.fingerprint, [shard.sha256 for shard in manifest.shards]])
    name = f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    target = inside(folder, CACHE, name) if cache_dir is None else Path(cache_dir).expanduser() / name
    kind = _record(manifest.indices)
    if _is_whole(target, kind, manifest.rows):
        return target
    try:
        with atomic_write(target, sync=True) as file:
            _write(file, folder, manifest, kind)
        write_json(target.with_suffix(".json"), {"sha256": _digest(target)})
    except OSError as error:
        raise OSError(
            error.errno,
            f"the memory-mapped copy of the tokens cannot be written to {target.parent}: {error}; give cache_dir",
        ) from error
    if cache_dir is None:
        for other in target.parent.glob("tokens-*"):
            if other.stem != target.stem:
                other.unlink(missing_ok=True)
    return target


def _record(spec: IndexSpec) -> np.dtype[Any]:
    """A row; its label is -1 where there is none."""
    code = {"int16": "<i2", "int32": "<i4"}[spec.dtype]
    unsure = [("log_variance", "<f4", (spec.length,))] if spec.log_variance else []
    return np.dtype([("id", "<i8"), ("label", "<i8"), ("indices", code, (spec.length,)), *unsure])


def _is_whole(path: Path, kind: np.dtype[Any], rows: int) -> bool:
    """Whether the file is there, with so many rows, and is what was written then, by its SHA-256."""
    try:
        found = read_npy(path, "")
        whole = found.dtype == kind and found.shape == (rows,)
        return whole and read_json(path.with_suffix(".json"))["sha256"] == _digest(path)
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _digest(path: Path) -> str:
    """SHA-256 of a file; that of a file which has not changed since this process read it last is known."""
    with open_input(path) as file:
        found = os.fstat(file.fileno())
        state = (str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if state not in _KNOWN:
            _KNOWN[state] = hashlib.file_digest(file, "sha256").hexdigest()
        return _KNOWN[state]


def _write(path: Path, folder: Path, manifest: Manifest, kind: np.dtype[Any]) -> None:
    head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (manifest.rows,)}
    with open_new(path) as stream:
        np.lib.format.write_array_header_1_0(stream, head)
        for record in manifest.shards:
            columns = read_shard(folder, record, manifest.indices)
            rows = np.empty(len(columns.ids), kind)
            rows["id"], rows["indices"] = columns.ids, columns.indices
            rows["label"] = [-1 if label is None else label for label in columns.labels]
            if columns.log_variance is not None:
                rows["log_variance"] = columns.log_variance
            stream.write(rows.tobytes())

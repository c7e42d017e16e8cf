"""``TokenStream``: tokens as an iterable data set, shared out over processes and loader workers, shuffled by seed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..data.randomness import permutation
from ..functional.distributed import world_size as processes
from .dataset import Item, TokenDataset

_BLOCK = 1024


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

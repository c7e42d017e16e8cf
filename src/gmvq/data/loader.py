"""`make_loader`: a torch DataLoader that can be saved and resumed in the middle of an epoch.

It counts what the consumer has received, not what workers have fetched ahead. Lightning saves the training
loader's ``state_dict()`` in its checkpoints and calls ``load_state_dict()`` before it asks for an iterator.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..environment import at_most_cores
from .sampler import Position, StatelessSampler
from .signals import TrainingSet


class ResumableLoader(DataLoader[Tensor]):
    """A DataLoader over a `StatelessSampler` whose state is the number of batches delivered.

    A pass has as many batches as an epoch, or, after ``load_state_dict``, as many as were left; what an
    abandoned pass did not deliver comes in the next one (see `Position`).

    Attributes:
        waited: seconds in which batches were waited for; without workers, in which they were made.
    """

    def __init__(self, dataset: TrainingSet, *, batch_sampler: StatelessSampler, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=batch_sampler, **options)
        self._batches = batch_sampler
        self._delivered = Position()
        self.waited = 0.0

    def __iter__(self) -> Iterator[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A generator: nothing starts, and no place is taken, before the first batch is asked for. Lightning
        # makes iterators that it does not use.
        self._delivered.begin(len(self), endless=self._batches.shuffle)
        self._batches.position.restore(self._delivered.batches, self._delivered.in_pass)
        batches = super().__iter__()
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            self._delivered.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were delivered, and the numbers that fix what those batches were."""
        return self._batches.state_at(self._delivered)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iteration go on after the batches already delivered."""
        self._batches.load_state_dict(state_dict)
        place = self._batches.position
        self._delivered.restore(place.batches, place.in_pass)


def make_loader(
    dataset: TrainingSet,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool | None = None,
    pin_memory: bool = False,
) -> ResumableLoader:
    """Make a resumable loader of float32 batches: images (batch_size, channels, size, size), or signals.

    Args:
        dataset: what ``open_images`` or ``open_signals`` returned.
        batch_size: items per batch and process.
        shuffle: a new order for every epoch.
        seed: of the order, and of the workers.
        num_workers: processes that fetch ahead, at most one per core; they live as long as the loader.
        rank, world_size: of this process, of all; Lightning then needs Trainer(use_distributed_sampler=False).
        drop_last: leave out the short last batch; None means when shuffling a set that fills a whole batch.
        pin_memory: copy batches into pinned memory, for a GPU.

    Raises:
        TypeError: ``dataset`` is neither: others do not take (index, draw) pairs.
        ValueError: as for `StatelessSampler`.
    """
    if not isinstance(dataset, TrainingSet):
        raise TypeError(
            f"dataset must be an ImageDataset or a SignalDataset, as open_dataset returns, got {type(dataset).__name__}"
        )
    num_workers = at_most_cores(num_workers, "processes that fetch data")
    return loader_of(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )


def loader_of(
    rows: Any,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool | None = None,
    **options: Any,
) -> ResumableLoader:
    """A resumable loader of anything that takes (index, draw) pairs; ``options`` are those of a DataLoader."""
    fills = len(rows) >= batch_size * world_size
    sampler = StatelessSampler(
        len(rows),
        seed=seed,
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        drop_last=shuffle and fills if drop_last is None else drop_last,
        blocks=getattr(rows, "blocks", None),
    )
    # Without a generator of its own the loader would draw its workers' seeds from the global one.
    own = torch.Generator().manual_seed(seed)
    return ResumableLoader(rows, batch_sampler=sampler, generator=own, **options)

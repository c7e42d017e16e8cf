"""`make_loader`: a DataLoader that can be saved and resumed in the middle of an epoch, over a `StatelessSampler`.

Our own, as the samplers of torch draw from a generator, whose draws would have to be replayed to go on at batch n: here
batch number n is a pure function of (seed, n), for any number of processes. The loader counts what the consumer has
received, not what workers have fetched ahead. Lightning saves the training loader's ``state_dict()`` in its checkpoints
and calls ``load_state_dict()`` before it asks for an iterator.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..environment import at_most_cores
from ..errors import check_positive
from .randomness import permutation, windows
from .signals import TrainingSet

Batch = list[tuple[int, int]]


class Position:
    """How far one has come in the endless sequence of batches: the rule the sampler and the loader share.

    A pass is the next ``length`` batches, wherever the last pass was left, so nothing is lost or repeated when an
    iterator is dropped half-way (Lightning does that). Without shuffling a pass begins with the first batch of an
    epoch. The first pass after ``restore`` has only the batches that were left of the interrupted one.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.in_pass = 0
        self._restored = False

    def restore(self, batches: int, in_pass: int) -> None:
        self.batches, self.in_pass, self._restored = batches, in_pass, True

    def begin(self, length: int, *, endless: bool) -> range:
        """Return the numbers of the batches of the pass that begins now."""
        if not (self._restored and self.in_pass < length):
            self.in_pass = 0
            if not endless:
                self.batches = -(-self.batches // length) * length
        self._restored = False
        return range(self.batches, self.batches + length - self.in_pass)

    def advance(self) -> None:
        self.batches += 1
        self.in_pass += 1


class StatelessSampler(Sampler[Batch]):
    """Hand out batches of (index, draw) pairs; ``draw`` counts items since training began.

    Batch n of the whole run depends on (seed, n) alone. An iteration is a pass (see `Position`). With several processes
    the batch of ``batch_size * world_size`` is divided in order: their union is what one process would have had.

    Args:
        length: number of items.
        seed: of the permutations.
        shuffle: a new permutation for every epoch; else in order.
        rank: of this process.
        world_size: number of processes.
        batch_size: items per batch and process.
        drop_last: leave out the last batch of an epoch if it is short; None: when shuffling items that fill a batch.
        blocks: where every item lies, (length,), if those of a block are best read together: shuffling then takes some
            blocks at a time, and a process gets items of few of them.

    Raises:
        ValueError: a number is out of range, no batch can be filled, or the short last batch is too small to
            give every process an item.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int,
        drop_last: bool | None = True,
        blocks: NDArray[np.int64] | None = None,
    ) -> None:
        for name, value in (("length", length), ("batch_size", batch_size), ("world_size", world_size)):
            check_positive(name, value)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size - 1}], got {rank}")
        self._length, self._seed, self.shuffle, self._blocks = length, seed, shuffle, blocks
        self._rank, self._world_size, self._global_batch = rank, world_size, batch_size * world_size
        whole, rest = divmod(length, self._global_batch)
        drop_last = (shuffle and whole > 0) if drop_last is None else drop_last
        self._drop_last = drop_last
        if drop_last and not whole:
            raise ValueError(
                f"{length} images do not fill one batch of {batch_size} on {world_size} process(es); use a smaller "
                "batch_size, or drop_last=False"
            )
        if not drop_last and 0 < rest < world_size:
            raise ValueError(
                f"the last batch of {length} images has {rest} for {world_size} processes; use another batch_size"
            )
        self._epoch_length = self._batches_per_epoch(self._global_batch)
        self.position = Position()
        self._order: tuple[int, np.ndarray] | None = None

    def _batches_per_epoch(self, global_batch: int) -> int:
        return self._length // global_batch if self._drop_last else -(-self._length // global_batch)

    def __len__(self) -> int:
        return self._epoch_length

    def __iter__(self) -> Iterator[Batch]:
        for number in self.position.begin(len(self), endless=self.shuffle):
            self.position.advance()
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """Return this process's part of batch ``number``, counted from the beginning of training."""
        epoch, within = divmod(number, self._epoch_length)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._order_of(epoch))
        start = within * self._global_batch
        places = np.arange(start, min(start + self._global_batch, self._length))
        if self._blocks is not None:
            places = places[np.argsort(self._blocks[self._order[1][places]], kind="stable")]
        mine = np.array_split(places, self._world_size)[self._rank]
        draws = (mine + epoch * self._length).tolist()
        return list(zip(self._order[1][mine].tolist(), draws, strict=True))

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self._length)
        if self._blocks is not None:
            return windows(self._seed, epoch, self._blocks)
        return permutation(self._seed, epoch, self._length)

    def state_dict(self, position: Position | None = None) -> dict[str, Any]:
        """How many batches were handed out, or delivered by a loader, and the numbers that fix what they were."""
        position = position or self.position
        fixed = {"length": self._length, "seed": self._seed, "global_batch": self._global_batch}
        if self._blocks is not None:
            fixed["blocks"] = len(np.unique(self._blocks))
        return {"batches": position.batches, "in_pass": position.in_pass, **fixed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the batches already handed out; warn if the order of the data is no longer the same.

        Where batches have another size now, on another number of processes, none of the epoch's items that have not
        been handed out is left out; at most one batch of those that have comes again.
        """
        for key in ("batches", "in_pass"):
            if not isinstance(state_dict.get(key), int):
                raise ValueError(f"expected a state with the number {key!r}, got the keys {list(state_dict)}")
        self.position.restore(*self._translated(state_dict))
        now = self.state_dict()
        changed = [
            f"{key} {state_dict.get(key)} -> {now.get(key)}"
            for key in ("length", "seed", "global_batch", "blocks")
            if state_dict.get(key) != now.get(key)
        ]
        if changed:
            warnings.warn(
                f"the data order is not that of the saved run: {', '.join(changed)}; going on at batch "
                f"{now['batches']} of the new order",
                stacklevel=2,
            )

    def _translated(self, state: dict[str, Any]) -> tuple[int, int]:
        """The batches of this size, and those of the pass, in what the saved run has handed out, rounded down."""
        batches, in_pass, then = state["batches"], state["in_pass"], state.get("global_batch")
        same = {"length": self._length, "seed": self._seed}
        if not isinstance(then, int) or then < 1 or any(state.get(key) != same[key] for key in same):
            return batches, in_pass
        if then == self._global_batch or not self._batches_per_epoch(then):
            return batches, in_pass
        epoch, within = divmod(batches, self._batches_per_epoch(then))
        now = (within * then // self._global_batch, in_pass * then // self._global_batch)
        return epoch * self._epoch_length + min(now[0], self._epoch_length), min(now[1], self._epoch_length)


class ResumableLoader(DataLoader[Tensor]):
    """A loader of anything that takes (index, draw) pairs, whose state is the number of batches delivered.

    An iteration is a pass (see `Position`). ``options`` are those of a DataLoader, ``seed`` that of its workers.

    Attributes:
        waited: seconds in which batches were waited for; without workers, in which they were made.
    """

    def __init__(self, rows: Any, sampler: StatelessSampler, *, seed: int, **options: Any) -> None:
        self._batches = sampler
        # Without a generator of its own the loader would draw its workers' seeds from the global one.
        own = torch.Generator().manual_seed(seed)
        super().__init__(rows, batch_sampler=sampler, generator=own, **options)
        self._delivered = Position()
        self.waited = 0.0

    def __iter__(self) -> Iterator[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A generator: nothing starts before the first batch is asked for. Lightning makes iterators that it leaves.
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
        return self._batches.state_dict(self._delivered)

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
    sampler = StatelessSampler(
        len(dataset),
        seed=seed,
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        drop_last=drop_last,
        blocks=getattr(dataset, "blocks", None),
    )
    more = {"num_workers": num_workers, "persistent_workers": num_workers > 0, "pin_memory": pin_memory}
    return ResumableLoader(dataset, sampler, seed=seed, **more)

"""The sampler and the loader: order as a function of (seed, n), processes, and resuming."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gmvq.data import ImageDataset, StatelessSampler, make_loader, open_images

pytest.importorskip("PIL", reason="pillow is not installed")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    path: Path = tmp_path_factory.mktemp("arrays") / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (50, 10, 10, 3), dtype=np.uint8))
    return open_images(path, size=8, split_fractions=(0, 0))


def test_an_epoch_is_a_permutation_and_draws_go_on() -> None:
    sampler = StatelessSampler(10, batch_size=2, seed=1)
    first, second = list(sampler), list(sampler)
    assert len(sampler) == len(first) == 5
    items = [[index for batch in epoch for index, _ in batch] for epoch in (first, second)]
    assert sorted(items[0]) == sorted(items[1]) == list(range(10))
    assert items[0] != items[1]
    assert [draw for batch in first + second for _, draw in batch] == list(range(20))
    assert first == list(StatelessSampler(10, batch_size=2, seed=1))
    assert first != list(StatelessSampler(10, batch_size=2, seed=2))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("length", [24, 29])
def test_ranks_divide_the_batch_of_one_process(shuffle: bool, drop_last: bool, length: int) -> None:
    shared = {"seed": 3, "shuffle": shuffle, "drop_last": drop_last}
    whole = StatelessSampler(length, batch_size=12, **shared)
    ranks = [StatelessSampler(length, batch_size=4, rank=rank, world_size=3, **shared) for rank in range(3)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    for epoch in range(2):
        for expected, parts in zip(whole, zip(*ranks, strict=True), strict=True):
            assert list(itertools.chain(*parts)) == expected, epoch
            assert all(parts)


def test_without_shuffle_every_pass_starts_at_the_first_item() -> None:
    sampler = StatelessSampler(10, batch_size=4, shuffle=False, drop_last=False)
    assert [[i for i, _ in batch] for batch in sampler] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    next(iter(sampler))
    assert [i for i, _ in next(iter(sampler))] == [0, 1, 2, 3]


@pytest.mark.parametrize("done", [1, 4, 5, 7, 10])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_sampler_resumes(done: int, shuffle: bool) -> None:
    def stream(sampler: StatelessSampler):
        return itertools.chain.from_iterable(iter(lambda: list(sampler), None))

    sampler = StatelessSampler(10, batch_size=2, shuffle=shuffle)
    expected = [batch for _ in range(4) for batch in sampler]
    sampler = StatelessSampler(10, batch_size=2, shuffle=shuffle)
    for _ in range(done // 5):
        list(sampler)
    list(itertools.islice(sampler, done % 5))
    resumed = StatelessSampler(10, batch_size=2, shuffle=shuffle)
    resumed.load_state_dict(sampler.state_dict())
    assert len(list(itertools.islice(iter(resumed), 99))) == (5 - done % 5)
    resumed.load_state_dict(sampler.state_dict())
    assert list(itertools.islice(stream(resumed), 20 - done)) == expected[done:]


def test_an_abandoned_training_pass_loses_nothing() -> None:
    expected = [
        batch for sampler in [StatelessSampler(10, batch_size=2)] for _ in range(2) for batch in sampler
    ]
    sampler = StatelessSampler(10, batch_size=2)
    seen = list(itertools.islice(sampler, 3)) + list(sampler)
    assert seen == expected[:8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0, "batch_size": 1}, "length must be positive"),
        ({"length": 9, "batch_size": 0}, "batch_size must be positive"),
        ({"length": 9, "batch_size": 2, "rank": 2, "world_size": 2}, r"rank must lie in \[0, 1\], got 2"),
        ({"length": 3, "batch_size": 4}, "3 images do not fill one batch of 4"),
        ({"length": 9, "batch_size": 4, "world_size": 2, "drop_last": False}, "has 1 for 2 processes"),
    ],
)
def test_wrong_samplers(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StatelessSampler(**arguments)  # pyright: ignore[reportArgumentType]


def test_states_are_checked() -> None:
    sampler = StatelessSampler(10, batch_size=2)
    with pytest.raises(ValueError, match="expected a state with the number 'batches'"):
        sampler.load_state_dict({"epoch": 3})
    with pytest.warns(UserWarning, match="length 20 -> 10"):
        sampler.load_state_dict(StatelessSampler(20, batch_size=2).state_dict())


@pytest.mark.parametrize(("then", "now"), [(4, 6), (6, 4), (4, 10), (10, 1)])
@pytest.mark.parametrize("drop_last", [True, False])
def test_another_batch_size_leaves_nothing_out(then: int, now: int, drop_last: bool) -> None:
    """In the middle of the second epoch: what was not handed out comes, and at most one batch comes again."""
    length = 40
    before = StatelessSampler(length, batch_size=then, drop_last=drop_last)
    list(before)
    seen = [index for batch in itertools.islice(before, 2) for index, _ in batch]
    after = StatelessSampler(length, batch_size=now, drop_last=drop_last)
    with pytest.warns(UserWarning, match=f"global_batch {then} -> {now}; going on at batch"):
        after.load_state_dict(before.state_dict())
    rest = [index for batch in after for index, _ in batch]
    epoch = [index for index, _ in StatelessSampler(length, batch_size=length).batch(1)]
    assert epoch[: len(seen)] == seen
    again = len(seen) % now
    assert rest == epoch[len(seen) - again : (length // now * now) if drop_last else length]


def test_batches(dataset: ImageDataset) -> None:
    loader = make_loader(dataset, batch_size=16, shuffle=True)
    batches = list(loader)
    assert [batch.shape for batch in batches] == [(16, 3, 8, 8)] * 3
    assert batches[0].dtype == torch.float32
    assert [len(batch) for batch in make_loader(dataset, batch_size=16, shuffle=False)] == [16, 16, 16, 2]
    assert [len(batch) for batch in make_loader(dataset, batch_size=64, shuffle=True)] == [50]
    assert len(make_loader(dataset, batch_size=16, shuffle=False, drop_last=True)) == 3
    with pytest.raises(TypeError, match="must be an ImageDataset"):
        make_loader([1, 2, 3], batch_size=1, shuffle=True)  # pyright: ignore[reportArgumentType]


def test_the_loader_leaves_the_global_generator_alone(dataset: ImageDataset) -> None:
    state = torch.get_rng_state()
    list(make_loader(dataset, batch_size=16, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_resumes_in_mid_epoch(dataset: ImageDataset, workers: int) -> None:
    plain = make_loader(dataset, batch_size=8, shuffle=True, seed=4)
    expected = [batch for _ in range(3) for batch in plain]
    loader = make_loader(dataset, batch_size=8, shuffle=True, seed=4, num_workers=workers)
    seen = list(loader)
    for batch in loader:
        seen.append(batch)
        if len(seen) == 9:
            break
    state = loader.state_dict()
    assert state["batches"] == 9  # delivered, not fetched ahead
    onward = list(loader)  # the same loader goes on, too
    assert_close(torch.stack(seen + onward), torch.stack(expected[:15]), rtol=0, atol=0)
    resumed = make_loader(dataset, batch_size=8, shuffle=True, seed=4, num_workers=workers)
    resumed.load_state_dict(state)
    iter(resumed)  # an iterator that is not used takes no batch
    rest = list(resumed)
    assert len(rest) == 3
    assert_close(torch.stack(seen + rest + list(resumed)), torch.stack(expected), rtol=0, atol=0)


def test_lightning_resumes_with_the_same_batches(dataset: ImageDataset, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Recorder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[float] = []

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            self.seen.append(batch.double().sum().item())
            return self.weight * batch.mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def train(checkpoint: Path | None) -> list[float]:
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = lightning.Trainer(
            max_steps=12,
            accelerator="cpu",
            logger=False,
            callbacks=[saver],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Recorder()
        loader = make_loader(dataset, batch_size=8, shuffle=True)
        trainer.fit(module, loader, ckpt_path=None if checkpoint is None else str(checkpoint))
        return module.seen

    seen = train(None)
    for step in (6, 9):  # between two epochs, within the second
        assert train(tmp_path / f"step={step}.ckpt") == seen[step:]

"""Parquet that is read in place, by row groups: the same pictures, in an order that reads few groups at a time."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pictures import png
from torch.testing import assert_close

from gmvq.data import ImageDataset, make_loader, open_images, stream
from gmvq.data.loader import StatelessSampler
from gmvq.data.randomness import WINDOW, windows

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytest.importorskip("PIL.Image", reason="pillow is not installed")


def table(picture, numbers: range) -> Any:
    cells = [{"bytes": png(picture(i, 16, 16)), "path": f"{i}.png"} for i in numbers]
    return pa.table({"image": cells, "label": list(numbers)})


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory, picture) -> Path:
    """96 pictures in 24 row groups of two files of train, 5 of test."""
    folder = tmp_path_factory.mktemp("parquet") / "set"
    folder.mkdir()
    for part in range(2):
        file = folder / f"train-0000{part}-of-00002.parquet"
        pq.write_table(table(picture, range(48 * part, 48 * part + 48)), file, row_group_size=4)
    pq.write_table(table(picture, range(200, 205)), folder / "test-00000-of-00001.parquet")
    return folder


def opened(path: str | Path, **options: Any) -> ImageDataset:
    return open_images(f"stream:{path}", size=16, **{"augment": False, "split_fractions": (0, 0), **options})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that are read, in order, each as the number of its first row."""
    found: list[int] = []
    load = stream._Reader._load

    def noted(self: Any, group: Any, column: str) -> Any:
        if column == "image":
            found.append(4 * group.number + 48 * ("00001-of" in group.file))
        return load(self, group, column)

    monkeypatch.setattr(stream._Reader, "_load", noted)
    return found


def test_the_pictures_are_those_of_the_path_itself(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ({}, {"split": "test"}, {"split": "validation", "split_fractions": (0.2, 0.0)}):
        streamed = opened(parquet, **options)
        copied = open_images(parquet, size=16, **{"augment": False, "split_fractions": (0, 0), **options})
        assert len(streamed) == len(copied)
        assert [streamed.item_name(i) for i in range(5)] == [copied.item_name(i) for i in range(5)]
        assert [streamed.label(i) for i in range(5)] == [copied.label(i) for i in range(5)]
        assert_close(streamed.__getitems__([4, 0, 2]), copied.__getitems__([4, 0, 2]), rtol=0, atol=0)


def test_nothing_is_copied(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.Dataset, "from_parquet", lambda *_, **__: pytest.fail("a copy is made"))
    opened(parquet)[0]


def test_an_epoch_reads_every_group_once_from_few_at_a_time(parquet: Path, reads: list[int]) -> None:
    data = opened(parquet)
    seen = [row for batch in StatelessSampler(96, batch_size=8, blocks=data.blocks) for row, _ in batch]
    assert sorted(seen) == list(range(96))
    for row in seen:
        data[row]
    assert sorted(reads) == list(range(0, 96, 4))
    first = {row // 4 for row in seen[: 4 * WINDOW]}
    assert len(first) == WINDOW
    assert sorted(first) != list(range(WINDOW))
    assert {row // 4 for row in seen[:8]} > {seen[0] // 4}


def test_the_order_is_new_in_every_epoch_and_fixed_by_the_seed() -> None:
    blocks = np.repeat(np.arange(40), 5)
    orders = [windows(seed, epoch, blocks) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(200)) for order in orders)
    assert (windows(0, 0, blocks) == orders[0]).all()
    assert all((one != other).mean() > 0.9 for one, other in itertools.pairwise(orders))


def test_processes_share_a_batch_by_its_groups(parquet: Path) -> None:
    """Their union is the batch of one process, with the same draws, and each reads few groups."""
    blocks = opened(parquet).blocks
    one = StatelessSampler(96, batch_size=32, blocks=blocks)
    parts = [StatelessSampler(96, batch_size=8, blocks=blocks, rank=rank, world_size=4) for rank in range(4)]
    for number in range(5):
        batch, own = one.batch(number), [part.batch(number) for part in parts]
        assert sorted(batch) == sorted(pair for some in own for pair in some)
        assert max(len({row // 4 for row, _ in some}) for some in own) <= 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_at_the_sample_on_another_number_of_processes(parquet: Path, workers: int) -> None:
    def loader(**options: Any) -> Any:
        return make_loader(opened(parquet, augment=True), shuffle=True, num_workers=workers, **options)

    expected = list(loader(batch_size=8))
    two = [loader(batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    begun = [torch.cat(batch) for batch in itertools.islice(zip(*two, strict=True), 5)]
    resumed = loader(batch_size=8)
    resumed.load_state_dict(two[0].state_dict())
    assert_close([*begun, *resumed], expected, rtol=0, atol=0)
    plain = make_loader(open_images(parquet, size=16, split_fractions=(0, 0)), shuffle=True, batch_size=8)
    with pytest.warns(UserWarning, match="the data order is not that of the saved run: blocks 24 -> None"):
        plain.load_state_dict(resumed.state_dict())


def test_a_data_set_of_the_hub(parquet: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are opened where they lie, here in memory; nothing is read but ends of files and row groups."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    memory = fsspec.filesystem("memory")
    files: dict[str, list[str]] = {"train": [], "test": []}
    for file in sorted(parquet.iterdir()):
        memory.pipe(f"/set/{file.name}", file.read_bytes())
        files[file.name.partition("-")[0]].append(f"memory://set/{file.name}")
    monkeypatch.setattr(stream, "_HUB", "memory://")
    found = SimpleNamespace(config=SimpleNamespace(data_files=files))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: {"a/set": found}[name])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("it is downloaded"))
    data = opened("hf:a/set")
    assert_close(data[50], open_images(parquet, size=16, augment=False, split_fractions=(0, 0))[50])
    assert reads == [48]
    assert len(opened("hf:a/set", split="test")) == 5
    memory.rm("/set/train-00000-of-00002.parquet")
    with pytest.raises(OSError, match="go on when it is there again"):
        data[0]
    assert data.skipped == []
    for other in ("memory://set/x.zip", str(next(parquet.iterdir())), "https://example.org/x.parquet"):
        files["train"] = [other]
        with pytest.raises(ValueError, match="hf:a/set is not stored as Parquet"):
            opened("hf:a/set")


def test_mistakes(parquet: Path, tmp_path: Path, picture) -> None:
    with pytest.raises(FileNotFoundError, match="there is no"):
        opened(tmp_path / "nothing")
    (tmp_path / "x.png").write_bytes(png(picture(0, 16, 16)))
    with pytest.raises(ValueError, match="holds no Parquet"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="expected encoded images"):
        opened(parquet, column="label")
    pq.write_table(table(picture, range(0)), tmp_path / "z.parquet")
    with pytest.raises(ValueError, match="has no rows in train"):
        opened(tmp_path / "z.parquet")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="Parquet"):
        opened(tmp_path / "y.parquet")


def test_a_row_group_that_does_not_fit_into_memory(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_MOST_GROUP", 100)
    stream._groups.cache_clear()
    with pytest.raises(ValueError, match="write the file again with smaller row groups"):
        opened(parquet)
    stream._groups.cache_clear()


def test_a_group_that_breaks_is_skipped_row_by_row(parquet: Path, tmp_path: Path, picture) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(table(picture, range(8)), file, row_group_size=4)
    data = opened(file)
    file.write_bytes(b"")
    with pytest.warns(match="cannot be read"), pytest.raises(ValueError, match="none of the 8 images"):
        data[0]

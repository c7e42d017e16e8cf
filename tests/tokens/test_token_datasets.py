"""Reading tokens for training: TokenDataset, TokenStream and datasets.load_dataset."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from gmvq.data import ImageDataset
from gmvq.tokens import DataRecipe, TokenDataset, TokenStream, encode_dataset


def test_items(tokens: Path, model: Any, split_of: Callable[[str], ImageDataset]) -> None:
    dataset = TokenDataset(tokens)
    assert (len(dataset), dataset.index_shape, dataset.codebook_size) == (73, (2, 2), 16)
    images = split_of("test")
    expected = model.encode(torch.stack(images.__getitems__(list(range(8)))))
    for i in range(8):
        item = dataset[50 + i]
        assert torch.equal(item["indices"], expected[i])
        assert item["indices"].dtype == torch.int64
        assert (item["id"], item["label"]) == (50 + i, images.label(i))
    assert dataset[-1]["id"] == 72
    with pytest.raises(IndexError, match="73 items"):
        dataset[73]
    part = TokenDataset(tokens, split="test")
    assert [row["id"] for row in part.__getitems__([0, 22])] == [50, 72]
    with pytest.raises(ValueError, match="no split"):
        TokenDataset(tokens, split="validation")
    with pytest.raises(ValueError, match="--log_variance"):
        TokenDataset(tokens, log_variance=True)


def test_missing_labels_and_images(model: Any, pictures: Path, tmp_path: Path) -> None:
    encode_dataset(model, DataRecipe(str(pictures / "a"), size=8), tmp_path / "t", rows_per_shard=2)
    dataset = TokenDataset(tmp_path / "t")
    assert [item["id"] for item in dataset.__getitems__([0, 1, 2, 3])] == [0, 1, 4, 5]
    assert {item["label"] for item in dataset.__getitems__([0, 1, 2, 3])} == {-1}


def test_pickles_small_and_works_in_workers(tokens: Path) -> None:
    dataset = TokenDataset(tokens)
    first = dataset[0]
    state = pickle.dumps(dataset)
    assert len(state) < 10_000
    copy = pickle.loads(state)
    assert torch.equal(copy[0]["indices"], first["indices"])
    loader = DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context="spawn")
    batches = list(loader)
    assert torch.cat([batch["id"] for batch in batches]).tolist() == list(range(73))
    assert batches[0]["indices"].shape == (10, 2, 2)


def test_the_mapped_file_follows_the_shards(
    tokens: Path, tmp_path: Path, model: Any, recipe: DataRecipe
) -> None:
    TokenDataset(tokens)
    file = next((tokens / ".cache").glob("*.npy"))
    whole = file.read_bytes()
    time = file.stat().st_mtime_ns
    TokenDataset(tokens)
    assert file.stat().st_mtime_ns == time
    file.write_bytes(whole[: len(whole) // 2])  # cut short: made anew
    TokenDataset(tokens)
    assert file.read_bytes() == whole
    elsewhere = tmp_path / "cache"
    TokenDataset(tokens, cache_dir=elsewhere)
    assert next(elsewhere.glob("*.npy")).read_bytes() == whole
    # other tokens in the same place: another file, and the old one goes
    for path in tokens.glob("*.parquet"):
        path.unlink()
    (tokens / "manifest.json").unlink()
    encode_dataset(model, recipe, tokens, rows_per_shard=73)
    assert len(TokenDataset(tokens)) == 73
    assert [path.name for path in (tokens / ".cache").iterdir()] != [file.name]
    assert len(list((tokens / ".cache").iterdir())) == 2  # and its digest


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (3, 2)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_stream_loses_and_doubles_nothing(tokens: Path, world: int, workers: int, shuffle: bool) -> None:
    seen: list[int] = []
    lengths = []
    for rank in range(world):
        stream = TokenStream(tokens, rank=rank, world_size=world, shuffle=shuffle, seed=3)
        loader = DataLoader(stream, batch_size=4, num_workers=workers)
        ids = [i for batch in loader for i in batch["id"].tolist()]
        assert len(ids) == len(stream)
        lengths.append(len(ids))
        seen += ids
    assert sorted(seen) == list(range(73))
    assert max(lengths) - min(lengths) <= 1


def test_the_order_of_a_stream(tokens: Path) -> None:
    def ids(epoch: int, **options: Any) -> list[int]:
        stream = TokenStream(tokens, **options)
        stream.set_epoch(epoch)
        return [item["id"] for item in stream]

    assert ids(0, shuffle=False) == list(range(73))
    assert ids(1) == ids(1) != ids(2)
    assert ids(1) != ids(1, seed=1)
    ranks = [ids(1, rank=rank, world_size=2) for rank in range(2)]
    interleaved = [ranks[i % 2][i // 2] for i in range(73)]
    assert interleaved == ids(1)
    even = [ids(1, rank=rank, world_size=2, even=True) for rank in range(2)]
    assert list(map(len, even)) == [36, 36]
    with pytest.raises(ValueError, match="rank must lie"):
        TokenStream(tokens, rank=2, world_size=2)


def test_persistent_workers_see_the_epoch(tokens: Path) -> None:
    stream = TokenStream(tokens, split="train")
    loader = DataLoader(stream, batch_size=50, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        orders.append(next(iter(loader))["id"].tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1]


def test_load_dataset_reads_the_shards(tokens: Path, tmp_path: Path) -> None:
    files = {"train": str(tokens / "train-*.parquet"), "test": str(tokens / "test-*.parquet")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "a"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 50, "test": 23}
    row, ours = loaded["test"][4], TokenDataset(tokens)[54]
    assert row["indices"] == ours["indices"].flatten().tolist()
    assert (row["id"], row["label"]) == (ours["id"], ours["label"])
    by_name = datasets.load_dataset(str(tokens), cache_dir=str(tmp_path / "b"))
    assert {name: len(part) for name, part in by_name.items()} == {"train": 50, "test": 23}
    streamed = datasets.load_dataset("parquet", data_files=files, split="test", streaming=True)
    assert next(iter(streamed))["id"] == 50

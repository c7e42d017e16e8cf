"""What is in the shards: the model's own indices, every image once, labels, splits, levels, unreadable images."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gmvq.data import ImageDataset
from gmvq.tokens import DataRecipe, encode_dataset, read_manifest, verify
from gmvq.tokens.manifest import IndexSpec

Contents = Callable[[Path], dict[str, bytes]]


def table_of(folder: Path) -> dict[str, list[Any]]:
    shards = [record.file for record in read_manifest(folder).shards]
    tables = [pq.read_table(folder / file).to_pydict() for file in shards]
    return {key: [value for table in tables for value in table[key]] for key in tables[0]}


def test_every_image_once_with_the_models_indices(
    model: Any, tokens: Path, split_of: Callable[[str], ImageDataset]
) -> None:
    manifest = read_manifest(tokens)
    assert [(record.file, record.first_id, record.rows) for record in manifest.shards] == [
        ("train-00000-of-00003.parquet", 0, 20),
        ("train-00001-of-00003.parquet", 20, 20),
        ("train-00002-of-00003.parquet", 40, 10),
        ("test-00000-of-00002.parquet", 50, 20),
        ("test-00001-of-00002.parquet", 70, 3),
    ]
    table = table_of(tokens)
    assert table["id"] == list(range(73))
    assert table["split"] == ["train"] * 50 + ["test"] * 23
    images = [split_of(split) for split in ("train", "test")]
    assert table["name"] == [one.item_name(i) for one in images for i in range(len(one))]
    assert table["label"] == [one.label(i) for one in images for i in range(len(one))]
    for record in manifest.shards:
        data = split_of(record.split)
        start = 0 if record.split == "train" else 50
        for ids in record.batches(8):
            expected = model.encode(torch.stack(data.__getitems__([i - start for i in ids]))).flatten(1)
            torch.testing.assert_close(torch.tensor(table["indices"][ids.start : ids.stop]), expected)
    schema = pq.read_schema(tokens / "train-00000-of-00003.parquet")
    assert str(schema.field("indices").type) == "fixed_size_list<element: int16>[4]"
    assert json.loads(schema.metadata[b"gmvq"])["index_shape"] == [2, 2]


def test_the_manifest_says_where_tokens_come_from(tokens: Path, array: Path, model: Any) -> None:
    data = json.loads((tokens / "manifest.json").read_text())
    assert data["data"]["path"] == str(array)
    assert data["indices"] == {
        "shape": [2, 2],
        "dtype": "int16",
        "codebook_size": 16,
        "levels": 1,
        "codebook_size_per_level": [16],
    }
    assert (data["image_shape"], data["rows"], data["complete"]) == ([3, 8, 8], 73, True)
    assert data["quantizer"] == model.quantizer.to_config()
    assert data["versions"]["torch"] == torch.__version__


def test_workers_change_no_byte(
    model: Any, recipe: DataRecipe, tokens: Path, tmp_path: Path, contents: Contents, options: dict[str, Any]
) -> None:
    encode_dataset(model, recipe, tmp_path / "two", workers=2, **options)
    assert contents(tmp_path / "two") == contents(tokens)


def test_levels_large_codebooks_and_log_variances(
    build: Callable[..., Any], recipe: DataRecipe, tmp_path: Path
) -> None:
    model = build(levels=3)
    encode_dataset(model, recipe, tmp_path / "t", log_variance=True)
    manifest = read_manifest(tmp_path / "t")
    assert (manifest.indices.shape, manifest.indices.levels) == ((2, 2, 3), 3)
    table = table_of(tmp_path / "t")
    images = torch.stack(recipe.open()["test"].__getitems__(list(range(23))))
    indices, log_variance = model.encode(images, return_log_variance=True)
    torch.testing.assert_close(torch.tensor(table["indices"][50:]), indices.flatten(1))
    torch.testing.assert_close(torch.tensor(table["log_variance"][50:]), log_variance.flatten(1))


class Wide(torch.nn.Module):
    """A tokenizer of 40,000 codes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.decoder = torch.nn.Identity()
        self.layout = "channels_first"
        self.quantizer = SimpleNamespace(codebook_size=40_000, to_config=lambda: {"type": "Wide"})

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 0] * 39_999).long()


def test_indices_of_large_codebooks_take_32_bits(recipe: DataRecipe, tmp_path: Path) -> None:
    encode_dataset(Wide(), DataRecipe(recipe.path, split="test", size=8), tmp_path / "t")
    assert read_manifest(tmp_path / "t").indices.dtype == "int32"
    assert max(max(row) for row in table_of(tmp_path / "t")["indices"]) > 1 << 15
    assert IndexSpec((1,), 1 << 15).dtype == "int16"
    assert IndexSpec((1,), (1 << 15) + 1).dtype == "int32"


def test_unreadable_images_keep_their_id_and_have_no_row(model: Any, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    for workers in (0, 2):
        result = encode_dataset(
            model,
            DataRecipe(str(pictures), size=8),
            out.with_name(f"t{workers}"),
            batch_size=4,
            rows_per_shard=5,
            workers=workers,
        )
        manifest = result.manifest
        assert [(one.id, one.name) for one in manifest.skipped] == [(2, "a/04.png"), (3, "a/06.png")]
        assert "truncated" in manifest.skipped[0].reason
        assert (manifest.rows, manifest.images) == (10, 12)
        table = table_of(result.folder)
        assert table["id"] == [0, 1, *range(4, 12)]
        assert table["name"][:4] == ["a/00.png", "a/02.png", "a/08.png", "a/10.png"]
        assert table["label"] == [0] * 4 + [1] * 6
        assert not verify(result.folder).problems
    assert (tmp_path / "t0" / "manifest.json").read_bytes() == (
        tmp_path / "t2" / "manifest.json"
    ).read_bytes()


def test_sets_that_do_not_come_divided(array: Path, pictures: Path, tmp_path: Path) -> None:
    images = np.load(array)["x_train"]
    np.save(tmp_path / "all.npy", images)
    sizes = {name: len(part) for name, part in DataRecipe(str(tmp_path / "all.npy"), size=8).open().items()}
    assert sizes == {"all": 50}
    divided = DataRecipe(str(tmp_path / "all.npy"), size=8, divided=True).open()
    assert list(divided) == ["train", "validation", "test"]
    assert sum(map(len, divided.values())) == 50
    assert list(DataRecipe(str(pictures), size=8).open()) == ["all"]
    assert list(DataRecipe(str(pictures / "a" / "00.png"), size=8, divided=True).open()) == ["all"]
    (pictures / "a").rename(pictures / "train")
    (pictures / "b").rename(pictures / "val")
    assert list(DataRecipe(str(pictures), size=8).open()) == ["train", "validation"]


def test_any_map_style_data_set(model: Any, tmp_path: Path) -> None:
    images = torch.rand(5, 3, 8, 8)
    pairs: Any = [(image, i) for i, image in enumerate(images)]
    encode_dataset(model, {"train": pairs, "extra": torch.utils.data.TensorDataset(images)}, tmp_path / "t")
    table = table_of(tmp_path / "t")
    assert table["label"] == [0, 1, 2, 3, 4, *[None] * 5]
    assert table["name"][5] == "extra:0"
    assert table["indices"][:5] == table["indices"][5:]


class Large(torch.utils.data.Dataset[torch.Tensor]):
    """800 images of 192 kB, made when they are asked for."""

    def __len__(self) -> int:
        return 800

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < 800:
            raise IndexError
        return torch.full((3, 128, 128), index / 800)


class Brightness(Wide):
    """One code for an image."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x.mean((2, 3), keepdim=True)).flatten(1)


def held() -> int:
    """Bytes of all plain tensors that Python still holds, each storage once."""
    gc.collect()
    plain = [value for value in gc.get_objects() if type(value) is torch.Tensor]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in plain}.values())


def test_images_are_not_held(tmp_path: Path) -> None:
    """All images are in one shard, and would be 157 MB; a batch is 13 MB."""
    memory: list[int] = []
    encode_dataset(Brightness(), Large(), tmp_path / "t", progress=lambda *_: memory.append(held()))
    assert len(memory) == 14
    assert max(memory) - memory[0] < 40e6


def test_bad_arguments(model: Any, recipe: DataRecipe, tmp_path: Path, array: Path) -> None:
    with pytest.raises(ValueError, match="engine must be one of"):
        encode_dataset(model, recipe, tmp_path / "t", engine="spark")
    with pytest.raises(ValueError, match="is a file"):
        encode_dataset(model, recipe, array)
    with pytest.raises(ValueError, match="empty"):
        encode_dataset(model, torch.utils.data.TensorDataset(torch.empty(0, 3, 8, 8)), tmp_path / "t")
    with pytest.raises(ValueError, match="small letters"):
        encode_dataset(model, {"../up": recipe.open()["test"]}, tmp_path / "t")
    with pytest.raises(FileNotFoundError):
        encode_dataset("no/such/model/here", recipe, tmp_path / "t")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"other files \(notes.txt\)"):
        encode_dataset(model, recipe, tmp_path / "mine")

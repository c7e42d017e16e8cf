"""Tokens back to images: bit for bit what ``reconstruct`` gives, as tensors, PNG files and a Parquet table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from gmvq.data import ImageDataset, open_images
from gmvq.evaluation.pictures import to_picture
from gmvq.tokens import DataRecipe, decode_tokens, encode_dataset, write_images


def test_the_round_trip_is_reconstruct(
    model: Any, tokens: Path, split_of: Callable[[str], ImageDataset]
) -> None:
    count = 0
    for batch in decode_tokens(tokens, model):
        data, start = split_of(batch.split), 0 if batch.split == "train" else 50
        images = torch.stack(data.__getitems__([i - start for i in batch.ids.tolist()]))
        assert torch.equal(batch.images, model.reconstruct(images))
        count += len(batch.ids)
    assert count == 73


def test_levels_and_unreadable_images(build: Callable[..., Any], pictures: Path, tmp_path: Path) -> None:
    model, recipe = build(levels=3), DataRecipe(str(pictures), size=8)
    encode_dataset(model, recipe, tmp_path / "t", batch_size=3)
    data = recipe.open()["all"]
    for batch in decode_tokens(tmp_path / "t", model):
        images = torch.stack(data.__getitems__(batch.ids.tolist()))
        assert torch.equal(batch.images, model.reconstruct(images))


def test_png_files(model: Any, tokens: Path, tmp_path: Path, split_of: Callable[[str], ImageDataset]) -> None:
    out = tmp_path / "png"
    assert write_images(decode_tokens(tokens, model, split="test", limit=9), out) == 9
    assert sorted(path.name for path in out.iterdir())[0] == "00000050.png"
    assert len(list(out.iterdir())) == 9
    expected = model.reconstruct(torch.stack(split_of("test").__getitems__(list(range(8)))))
    for i in range(8):
        assert np.array_equal(np.asarray(Image.open(out / f"{50 + i:08d}.png")), to_picture(expected[i]))
    with pytest.raises(ValueError, match="not empty"):
        write_images(decode_tokens(tokens, model), out)


def test_a_table_that_datasets_and_open_images_read(model: Any, tokens: Path, tmp_path: Path) -> None:
    file = tmp_path / "decoded.parquet"
    assert write_images(decode_tokens(tokens, model), file) == 73
    assert [path.name for path in tmp_path.glob("*decoded*")] == ["decoded.parquet"]
    loaded = datasets.load_dataset(
        "parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    first = loaded[0]
    assert first["image"].size == (8, 8)
    assert (first["id"], first["split"], loaded[72]["split"]) == (0, "train", "test")
    expected = next(decode_tokens(tokens, model)).images[0]
    assert np.array_equal(np.asarray(first["image"]), to_picture(expected))
    ours = open_images(file, size=8, split_fractions=(0.0, 0.0), augment=False)
    assert len(ours) == 73
    assert ours.label(3) == loaded[3]["label"]
    torch.testing.assert_close(ours[0], torch.from_numpy(to_picture(expected)).movedim(-1, 0) / 255)
    with pytest.raises(ValueError, match="nothing is overwritten"):
        write_images([], file)


def test_grey_images(tmp_path: Path, build: Callable[..., Any]) -> None:
    class Grey(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build()
            self.encoder, self.decoder = self.inner.encoder, self.inner.decoder
            self.quantizer, self.layout = self.inner.quantizer, self.inner.layout

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner.encode(x.expand(-1, 3, -1, -1))

        def decode(self, indices: torch.Tensor) -> torch.Tensor:
            return self.inner.decode(indices)[:, :1]

    images: Any = torch.utils.data.TensorDataset(torch.rand(3, 1, 8, 8))
    encode_dataset(Grey(), images, tmp_path / "t")
    write_images(decode_tokens(tmp_path / "t", Grey()), tmp_path / "png")
    assert Image.open(tmp_path / "png" / "00000000.png").mode == "L"


def test_the_model_has_to_be_the_right_one(
    model: Any, build: Callable[..., Any], tokens: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="do not say which checkpoint"):
        next(decode_tokens(tokens))
    assert len(next(decode_tokens(tokens, checkpoint)).ids) == 8
    other = build(codebook_size=8)
    with pytest.raises(ValueError, match="not what made these tokens"):
        next(decode_tokens(tokens, other))
    with pytest.raises(FileNotFoundError, match="--checkpoint CKPT"):
        next(decode_tokens(tokens, tmp_path / "gone"))
    with pytest.raises(ValueError, match="no split 'validation'; the tokens have: train, test"):
        next(decode_tokens(tokens, model, split="validation"))


def test_unfinished_tokens_are_refused(
    model: Any, recipe: DataRecipe, tmp_path: Path, stop_after: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(model, recipe, tmp_path / "t", progress=stop_after(30), **options)
    with pytest.raises(ValueError, match="not finished: 1 of 5 shards"):
        next(decode_tokens(tmp_path / "t", model))
    data = json.loads((tmp_path / "t" / "manifest.json").read_text())
    assert data["complete"] is False
    assert dataclasses.is_dataclass(recipe)

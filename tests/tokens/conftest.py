"""A tiny untrained tokenizer with a codebook, small sets of images, and their tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gmvq import ResidualGMVQ, VQAutoencoder, build_autoencoder
from gmvq.data import ImageDataset, open_images
from gmvq.tokens import DataRecipe, encode_dataset


def build_model(codebook_size: int = 16, levels: int = 1) -> VQAutoencoder:
    """The same model at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        quantizer = None
        if levels > 1:
            quantizer = ResidualGMVQ(dim=4, codebook_size=codebook_size, num_quantizers=levels)
        model = build_autoencoder("tiny", dim=4, codebook_size=codebook_size, quantizer=quantizer).eval()
        latents = model.encoder(torch.rand(max(8, codebook_size // 2), 3, 8, 8)).movedim(1, -1)
        model.quantizer.init_codebook(latents.detach().reshape(-1, 4))  # pyright: ignore
    return model


@pytest.fixture(scope="session")
def model() -> VQAutoencoder:
    return build_model()


@pytest.fixture(scope="session")
def build() -> Callable[..., VQAutoencoder]:
    return build_model


@pytest.fixture(scope="session")
def checkpoint(model: VQAutoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    model.save_pretrained(folder, metadata={"data": {"size": 8}})
    return folder


@pytest.fixture(scope="session")
def array(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 50 train and 23 test images with labels."""
    file = tmp_path_factory.mktemp("array") / "images.npz"
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (73, 8, 8, 3), dtype=np.uint8)
    labels = random.integers(0, 5, 73)
    np.savez(file, x_train=images[:50], y_train=labels[:50], x_test=images[50:], y_test=labels[50:])
    return file


@pytest.fixture
def recipe(array: Path) -> DataRecipe:
    return DataRecipe(str(array), size=8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve PNG files in two classes, two of which break off."""
    folder = tmp_path / "pictures"
    random = np.random.default_rng(1)
    for i in range(12):
        file = folder / "ab"[i % 2] / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
        if i in (4, 6):
            file.write_bytes(file.read_bytes()[:1500])
    return folder


@pytest.fixture
def split_of(array: Path) -> Callable[[str], ImageDataset]:
    def opened(split: str) -> ImageDataset:
        return open_images(array, split=split, size=8, split_fractions=(0.0, 0.0), augment=False)

    return opened


@pytest.fixture
def tokens(model: VQAutoencoder, recipe: DataRecipe, tmp_path: Path) -> Path:
    """The array in shards of 20 rows, batches of 8."""
    out = tmp_path / "tokens"
    encode_dataset(model, recipe, out, batch_size=8, rows_per_shard=20)
    return out


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The files of a folder and their bytes."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}

    return read


@pytest.fixture
def stop_after() -> Callable[[int], Callable[[int, int], None]]:
    """A progress callback that raises KeyboardInterrupt once this many images are done."""

    def make(images: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done >= images:
                raise KeyboardInterrupt

        return progress

    return make


@pytest.fixture
def options() -> dict[str, Any]:
    return {"batch_size": 8, "rows_per_shard": 20}

"""Arrays, IDX files and Fashion-MNIST."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gmvq.data import open_images
from gmvq.data.arrays import FASHION_MNIST

pytest.importorskip("PIL", reason="pillow is not installed")

ALL = {"split": "train", "split_fractions": (0.0, 0.0), "augment": False}


def rgb(count: int = 12, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "float32", "float64"])
def test_layouts_and_types_agree(tmp_path: Path, layout: str) -> None:
    pixels = rgb()
    array = {
        "NHWC": pixels,
        "NCHW": np.moveaxis(pixels, -1, 1),
        "float32": (pixels / 255).astype(np.float32),
        "float64": pixels / 255,
    }[layout]
    np.save(tmp_path / "x.npy", array)
    dataset = open_images(tmp_path / "x.npy", size=16, **ALL)
    assert len(dataset) == 12
    assert_close(dataset[5], torch.from_numpy(pixels[5]).permute(2, 0, 1) / 255)
    assert dataset.item_name(5) == "x.npy:5"


def test_channels_are_converted(tmp_path: Path) -> None:
    from PIL import Image

    pixels = rgb()
    np.save(tmp_path / "x.npy", pixels)
    grey = open_images(tmp_path / "x.npy", size=16, channels=1, **ALL)[3]
    assert_close(grey[0], torch.from_numpy(np.array(Image.fromarray(pixels[3]).convert("L"))) / 255)
    np.save(tmp_path / "g.npy", pixels[..., 0])
    assert_close(
        open_images(tmp_path / "g.npy", size=16, **ALL)[3],
        (torch.from_numpy(pixels[3, ..., 0]) / 255).expand(3, 16, 16),
    )
    clear = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    np.save(tmp_path / "a.npy", clear)
    assert_close(open_images(tmp_path / "a.npy", size=16, **ALL)[0], torch.ones(3, 16, 16))


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((12, 20, 30), 51, dtype=np.uint8))
    assert_close(
        open_images(tmp_path / "x.npy", size=8, split_fractions=(0, 0))[(0, 4)], torch.full((3, 8, 8), 0.2)
    )


def test_splits_of_an_array_are_disjoint(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rgb(50))
    names = []
    for split in ("train", "validation", "test"):
        dataset = open_images(tmp_path / "x.npy", split=split)
        names.append({dataset.item_name(i) for i in range(len(dataset))})
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names)) == 50


@pytest.mark.parametrize("keys", [("images",), ("x_train", "x_test"), ("train", "test")])
def test_npz_keys(tmp_path: Path, keys: tuple[str, ...]) -> None:
    parts = {key: rgb(20 if i == 0 else 5) for i, key in enumerate(keys)}
    np.savez(tmp_path / "x.npz", **parts)
    train, test = (
        open_images(tmp_path / "x.npz", size=16, split=s, augment=False) for s in ("train", "test")
    )
    if len(keys) == 2:
        assert len(test) == 5
        validation = open_images(tmp_path / "x.npz", size=16, split="validation")
        assert len(train) + len(validation) == 20
    else:
        assert 0 < len(test) < len(train) < 20


def test_npz_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=rgb(), labels=np.arange(12))
    dataset = open_images(tmp_path / "x.npz", size=16, split="test", split_fractions=(0, 0.5))
    assert dataset.item_name(2) == f"x.npz:{dataset.label(2)}"
    np.savez(tmp_path / "y.npz", images=rgb(), labels=np.arange(3))
    with pytest.raises(ValueError, match=r"labels of y\.npz must be 12 integers"):
        open_images(tmp_path / "y.npz", **ALL)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 8), np.uint8), r"uint8 of shape \(4, 8\); expected \(N, H, W\)"),
        (np.zeros((4, 8, 8, 7), np.uint8), "C = 1, 3 or 4"),
        (np.zeros((0, 8, 8), np.uint8), "expected"),
        (np.zeros((4, 8, 8), np.int64), r"convert it with array.astype"),
        (np.full((4, 8, 8), np.nan, np.float32), "holds NaN in images 0 to 3"),
        (np.full((4, 8, 8), 255.0), "values from 255 to 255.*must lie in"),
        (np.full((4, 8, 8), -0.5), "values from -0.5"),
        (np.array(["a", None], dtype=object), "Python objects"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "x.npy")


def test_archives_that_hold_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", foo=rgb())
    with pytest.raises(ValueError, match="holds the keys foo; expected images, x or data"):
        open_images(tmp_path / "x.npz")
    np.savez(tmp_path / "t.npz", test=rgb())
    with pytest.raises(ValueError, match="no split 'train' to take 'validation' from; there is: test"):
        open_images(tmp_path / "t.npz", split="validation")
    for name in ("broken.npz", "broken.npy"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="cannot read"):
            open_images(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files(tmp_path: Path, suffix: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.arange(30, dtype=np.uint8))
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{suffix}", images[:4])
    test = open_images(tmp_path, split="test", channels=1)
    assert len(test) == 4
    assert_close(test[2], torch.nn.functional.pad(torch.from_numpy(images[2:3]) / 255, (2, 2, 2, 2)))
    train, validation = open_images(tmp_path, size=28), open_images(tmp_path, split="validation", size=28)
    assert len(train) + len(validation) == 30
    assert train.item_name(3).endswith(f":{train.label(3)}")
    assert open_images(tmp_path, split="test", size=20)[0].shape == (3, 20, 20)
    single = open_images(tmp_path / f"t10k-images-idx3-ubyte{suffix}", size=28, **ALL)
    assert len(single) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x0d\x03" + b"\0" * 12, "begins with 00 00 0d 03"),
        (
            b"\x00\x00\x08\x03" + b"\0\0\0\x02" * 3 + b"\0" * 7,
            r"announces the shape \(2, 2, 2\) but holds 7 bytes",
        ),
        (b"\x00\x00\x08\x01" + b"\0\0\0\x02" + b"\0" * 2, r"expected \(N, H, W\)"),
    ],
)
def test_idx_files_that_are_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x-idx3-ubyte").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "x-idx3-ubyte")
    (tmp_path / "y-idx3-ubyte.gz").write_bytes(gzip.compress(data + b"\0" * 99)[:-9])
    with pytest.raises(ValueError, match="is the download complete"):
        open_images(tmp_path / "y-idx3-ubyte.gz")


@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed"
)
def test_fashion_mnist() -> None:
    test = open_images("fashion_mnist", split="test", channels=1)
    assert (len(test), test[0].shape) == (10_000, (1, 32, 32))
    assert_close(test[0][:, :2], torch.zeros(1, 2, 32))
    assert_close(test[0][:, 2:-2, 2:-2], open_images("fashion_mnist", split="test", channels=1, size=28)[0])
    assert {test.label(i) for i in range(100)} == set(range(10))
    validation = open_images("fashion_mnist", split="validation")
    assert (len(validation), validation.item_name(0)) == (5_000, "fashion_mnist[train]:55000")
    train = open_images("fashion_mnist", size=28, channels=1, flip=False)
    assert len(train) == 55_000
    assert_close(train[(3, 0)], train[(3, 1)], rtol=0, atol=0)  # no crops


def test_fashion_mnist_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmvq.data.arrays.FASHION_MNIST", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        open_images("fashion_mnist")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_archives_end_in_a_message(tmp_path: Path, compressed: bool) -> None:
    """Every byte of a small .npz replaced, and every flag of its entries: zipfile alone has five kinds of errors."""
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "good.npz", x=images)
    good, bad = (tmp_path / "good.npz").read_bytes(), tmp_path / "bad.npz"
    for place in range(0, len(good), 1 if compressed else 2):
        bad.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        with contextlib.suppress(ValueError):  # an error of another kind fails
            open_images(bad, size=8)


def test_a_damaged_header_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), np.uint8))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data.replace(b"(4, 8, 8), }", b"(4, 8, 8(, }"))
    with pytest.raises(ValueError, match=r"cannot read .*a\.npy.*expected \(N, H, W\)"):
        open_images(tmp_path / "a.npy", size=8)

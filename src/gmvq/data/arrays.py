"""Images already decoded: .npy and .npz arrays, IDX files (MNIST and its relatives), Fashion-MNIST of Debian."""

from __future__ import annotations

import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmvq.data.decode import convert_channels
from gmvq.data.pictures import Framing, Pictures
from gmvq.data.splits import SPLIT_ALIASES, Wanted, choose_split

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_FASHION_VALIDATION = 5_000
_IDX_NAME = re.compile(r"idx\d(-ubyte)?(\.gz)?$|-ubyte(\.gz)?$")
_EXPECTED = (
    "expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4, as uint8 or as floats in [0, 1]"
)
_CHUNK = 256
NPZ_KEYS = {
    "train": ("train", "x_train", "train_images"),
    "validation": ("validation", "x_val", "x_valid", "val", "val_images"),
    "test": ("test", "x_test", "test_images"),
    "all": ("images", "x", "data"),
}
_NPZ_LABELS = {
    "train": ("y_train", "train_labels"),
    "validation": ("y_val", "y_valid", "val_labels"),
    "test": ("y_test", "test_labels"),
    "all": ("labels", "y"),
}
Arrays = dict[str, NDArray[Any]]
"""Arrays by their split; the key "all" means not divided."""


def open_npy(path: Path, wanted: Wanted) -> Pictures:
    """Open one split of an .npy file; uint8 stays on disk (memory-mapped), floats become uint8 in memory.

    Raises:
        ValueError: the file is no array of images, or holds pickled objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}; {_EXPECTED}") from error
    return _choose({"all": _check_pixels(array, path.name)}, {}, wanted, path.name)


def open_npz(path: Path, wanted: Wanted) -> Pictures:
    """Open one split of an .npz file with the key images, x or data, or with train/test or x_train/x_test.

    Raises:
        ValueError: none of these keys is there, or the arrays are no images.
    """
    images, there = read_npz(path, NPZ_KEYS)
    if not images:
        raise ValueError(
            f"{path} holds the keys {there}; expected images, x or data, or a pair such as train and test or "
            "x_train and x_test"
        )
    pixels = {name: _check_pixels(array, f"{path.name}[{name}]") for name, array in images.items()}
    return _choose(pixels, read_npz(path, _NPZ_LABELS)[0], wanted, path.name)


def read_npz(path: Path, keys: Mapping[str, tuple[str, ...]]) -> tuple[Arrays, str]:
    """Read for every split the array under the first of its keys that is there; return also all keys of the file.

    Raises:
        ValueError: the file is no .npz, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {part: next((key for key in some if key in archive), None) for part, some in keys.items()}
            arrays = {part: archive[key] for part, key in found.items() if key is not None}
            there = ", ".join(archive.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}; expected an .npz of numeric arrays") from error
    if "train" in arrays or "test" in arrays:
        arrays.pop("all", None)
    return arrays, there


def is_idx(name: str) -> bool:
    """Tell an IDX file by its name, such as train-images-idx3-ubyte.gz or images.idx3."""
    return _IDX_NAME.search(name.lower()) is not None


def open_idx(path: Path, wanted: Wanted) -> Pictures:
    """Open one split of an IDX file of images, or of a folder of them (train-..., t10k-... or test-...).

    Raises:
        ValueError: not an IDX file of uint8 images, truncated, or no such file in the folder.
    """
    alone = path.is_file()
    files = (
        [path] if alone else sorted(file for file in path.iterdir() if file.is_file() and is_idx(file.name))
    )
    pixels: Arrays = {}
    labels: Arrays = {}
    for file in files:
        name = file.name.lower()
        part = "all" if alone else SPLIT_ALIASES.get(re.split(r"[^a-z0-9]+", name)[0], "all")
        if not alone and re.search(r"labels|idx1", name):
            labels[part] = read_idx(file)
        else:
            pixels[part] = _padded(_check_pixels(read_idx(file), file.name), wanted.size)
    if not pixels:
        raise ValueError(
            f"{path} holds no IDX file of images, only: {', '.join(file.name for file in files)}"
        )
    return _choose(pixels, labels, wanted, path.name, "whole")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped, of any shape.

    Raises:
        ValueError: another magic number or type, or fewer bytes than the header announces.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; is the download complete?") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise ValueError(
            f"{path} is no IDX file of unsigned bytes: it begins with {data[:4].hex(' ') or 'nothing'}"
        )
    shape = tuple(np.frombuffer(data, dtype=">u4", count=data[3], offset=4).tolist())
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * data[3])
    if len(body) != math.prod(shape):
        raise ValueError(f"{path} announces the shape {shape} but holds {len(body)} bytes; is it complete?")
    return body.reshape(shape)


def open_fashion_mnist(wanted: Wanted) -> Pictures:
    """Open Fashion-MNIST: its own test split; validation is the last 5,000 of its train split.

    Raises:
        FileNotFoundError: the Debian package is not installed.
    """
    if not FASHION_MNIST.is_dir():
        raise FileNotFoundError(
            f"Fashion-MNIST is not at {FASHION_MNIST}; install it with: apt install dataset-fashion-mnist, "
            "or give the folder with its four IDX files"
        )
    home = "t10k" if wanted.split == "test" else "train"
    pixels = _padded(read_idx(FASHION_MNIST / f"{home}-images-idx3-ubyte.gz")[..., None], wanted.size)
    rows = np.arange(len(pixels))
    rule = "official test split"
    if home == "train":
        rows = rows[:-_FASHION_VALIDATION] if wanted.split == "train" else rows[-_FASHION_VALIDATION:]
        rule = "validation = last 5,000 of the official train split"
    return Pictures(
        read=partial(_rows, pixels, wanted.channels),
        rows=rows,
        names=f"fashion_mnist[{home}]",
        description=f"fashion_mnist ({wanted.split}; {rule})",
        labels=read_idx(FASHION_MNIST / f"{home}-labels-idx1-ubyte.gz"),
        framing="whole",
        decoded=True,
    )


def _rows(pixels: NDArray[np.uint8], channels: int, rows: int | NDArray[np.int64]) -> NDArray[np.uint8]:
    return convert_channels(np.asarray(pixels[rows]), channels)


def _choose(
    pixels: Arrays, labels: Mapping[str, NDArray[Any]], wanted: Wanted, name: str, framing: Framing = "crop"
) -> Pictures:
    """Make the source of one split from the arrays that a file came with."""
    keys = {"train" if part == "all" else part: range(len(array)) for part, array in pixels.items()}
    home, rows, rule = choose_split(keys, wanted)
    part = home if home in pixels else "all"
    known, count = labels.get(part), len(pixels[part])
    if known is not None and (known.shape != (count,) or known.dtype.kind not in "iu"):
        raise ValueError(
            f"labels of {name} must be {count} integers, got {known.dtype} of shape {known.shape}"
        )
    return Pictures(
        read=partial(_rows, pixels[part], wanted.channels),
        rows=rows,
        names=f"{name}[{home}]" if len(pixels) > 1 else name,
        description=f"{name} ({wanted.split}; {rule})",
        labels=known,
        framing=framing,
        decoded=True,
    )


def _check_pixels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return any accepted array as uint8 of shape (N, H, W, C); floats are rounded to 8 bits.

    Raises:
        ValueError: another shape or dtype, no images, NaN, or floats outside [0, 1].
    """
    got = f"{name} has {array.dtype} of shape {array.shape}"
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        hint = "; series of numbers: pass --model.spatial_dims 1" if array.ndim < 3 else ""
        raise ValueError(f"{got}; {_EXPECTED}{hint}")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{got}; {_EXPECTED}; convert it with array.astype(numpy.uint8)")
    pixels = np.empty(array.shape, dtype=np.uint8)
    for start in range(0, len(array), _CHUNK):
        chunk = array[start : start + _CHUNK].astype(np.float32)
        low, high = chunk.min(), chunk.max()
        if not (low >= 0 and high <= 1):
            where = f"images {start} to {start + len(chunk) - 1}"
            bad = "NaN" if np.isnan(chunk).any() else f"values from {low:.4g} to {high:.4g}"
            raise ValueError(
                f"{name} holds {bad} in {where}; floats must lie in [0, 1]: scale them, or store uint8"
            )
        pixels[start : start + _CHUNK] = np.rint(chunk * 255)
    return pixels


def _padded(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Give 28 x 28 images a black border when 32 x 32 is asked for, as the field does; else leave them."""
    if size == 32 and pixels.shape[1:3] == (28, 28):
        return np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return pixels

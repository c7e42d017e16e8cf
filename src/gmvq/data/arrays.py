"""Images already decoded: .npy and .npz arrays, IDX files (MNIST and its relatives), Fashion-MNIST of Debian.

numpy reads and maps them; through ``datasets`` every array would be copied into its cache.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import as_value_error
from ..reading import check_plain, open_zip, read_bytes, read_gzip
from .decode import convert_channels
from .pictures import Framing, Pictures
from .splits import SPLIT_ALIASES, Wanted, choose_split

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
"""Arrays by their split; what is not divided is all train."""


def open_arrays(path: Path, wanted: Wanted) -> Pictures:
    """Open one split of an .npy, .npz or IDX file, or of a folder of IDX files.

    An .npz has the key images, x or data, or is divided by keys such as train and test or x_train and x_test. In a
    folder, the names of IDX files begin with their split. An .npy of uint8 stays on disk (memory-mapped).
    """
    framing: Framing = "crop"
    if path.suffix.lower() == ".npy":
        images, labels, there = {"train": read_npy(path, _EXPECTED)}, {}, ""
    elif path.suffix.lower() == ".npz":
        images, there = read_npz(path, NPZ_KEYS)
        labels, _ = read_npz(path, _NPZ_LABELS)
    else:
        framing = "whole"
        images, labels, there = _read_idx_files(path)
    if not images:
        raise ValueError(
            f"{path} holds the keys {there}; expected images, x or data, or a pair such as train and test or "
            "x_train and x_test"
        )
    names = {part: f"{path.name}[{part}]" if len(images) > 1 else path.name for part in images}
    pixels = {part: _check_pixels(array, names[part]) for part, array in images.items()}
    home, rows, rule = choose_split({part: range(len(array)) for part, array in pixels.items()}, wanted)
    known, count = labels.get(home), len(pixels[home])
    if known is not None and (known.shape != (count,) or known.dtype.kind not in "iu"):
        raise ValueError(
            f"labels of {path.name} must be {count} integers, got {known.dtype} of shape {known.shape}"
        )
    chosen = _padded(pixels[home], wanted.size) if framing == "whole" else pixels[home]
    return Pictures(
        read=partial(_rows, chosen, wanted.channels),
        rows=rows,
        names=names[home],
        description=f"{path.name} ({wanted.split}; {rule})",
        labels=known,
        framing=framing,
        decoded=True,
    )


def read_npy(path: Path, expected: str) -> NDArray[Any]:
    """Map an .npy file into memory; numpy refuses pickles, and headers that announce more than the file holds."""
    # A damaged header is read as a literal of Python, which raises errors of its own.
    with as_value_error(f"cannot read {path}", Exception, advice=expected):
        check_plain(path)
        return np.lib.format.open_memmap(path, mode="r")


def read_npz(path: Path, keys: Mapping[str, tuple[str, ...]]) -> tuple[Arrays, str]:
    """Read for every split the array under the first of its keys that is there; return also all keys of the file."""
    arrays: Arrays = {}
    # A damaged archive makes zipfile, zlib and numpy raise almost anything.
    told = as_value_error(f"cannot read {path}", Exception, advice="expected an .npz of numeric arrays")
    with told, open_zip(path) as (archive, _):
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        for part, some in keys.items():
            key = next((key for key in some if key in names), None)
            if key is not None:
                with archive.open(f"{key}.npy") as file:
                    arrays[part] = np.lib.format.read_array(file, allow_pickle=False)
    undivided = arrays.pop("all", None)
    if undivided is not None and not {"train", "test"} & arrays.keys():
        arrays["train"] = undivided
    return arrays, ", ".join(names)


def is_idx(name: str) -> bool:
    """Tell an IDX file by its name, such as train-images-idx3-ubyte.gz or images.idx3."""
    return _IDX_NAME.search(name.lower()) is not None


def _read_idx_files(path: Path) -> tuple[Arrays, Arrays, str]:
    """Images and labels of an IDX file, or of a folder of them, by split; and the names of the files."""
    if path.is_file():
        return {"train": read_idx(path)}, {}, path.name
    files = sorted(file for file in path.iterdir() if file.is_file() and is_idx(file.name))
    found: tuple[Arrays, Arrays] = {}, {}
    for file in files:
        name = file.name.lower()
        part = SPLIT_ALIASES.get(re.split(r"[^a-z0-9]+", name)[0], "train")
        found[re.search(r"labels|idx1", name) is not None][part] = read_idx(file)
    return *found, ", ".join(file.name for file in files)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped, of any shape."""
    with as_value_error(f"cannot read {path}", OSError, ValueError, advice="is the download complete?"):
        data = read_gzip(path) if path.suffix == ".gz" else read_bytes(path)
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
    """Open Fashion-MNIST: its own test split; validation is the last 5,000 of its train split."""
    if not FASHION_MNIST.is_dir():
        raise FileNotFoundError(
            f"Fashion-MNIST is not at {FASHION_MNIST}; install it with: apt install dataset-fashion-mnist, "
            "or give the folder with its four IDX files"
        )
    home = "t10k" if wanted.split == "test" else "train"
    images, labels = (
        read_idx(FASHION_MNIST / f"{home}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1")
    )
    rows, rule = np.arange(len(images)), "official test split"
    if home == "train":
        rows = rows[:-_FASHION_VALIDATION] if wanted.split == "train" else rows[-_FASHION_VALIDATION:]
        rule = "validation = last 5,000 of the official train split"
    read = partial(_rows, _padded(images[..., None], wanted.size), wanted.channels)
    title = f"fashion_mnist ({wanted.split}; {rule})"
    return Pictures(read, rows, f"fashion_mnist[{home}]", title, labels, "whole", decoded=True)


def _rows(pixels: NDArray[np.uint8], channels: int, rows: int | NDArray[np.int64]) -> NDArray[np.uint8]:
    return convert_channels(np.asarray(pixels[rows]), channels)


def _check_pixels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return any accepted array as uint8 of shape (N, H, W, C); floats are rounded to 8 bits."""
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

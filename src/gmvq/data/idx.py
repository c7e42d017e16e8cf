"""IDX files, the format of MNIST and its relatives, and Fashion-MNIST as Debian packages it."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmvq.data.arrays import PixelArray, check_pixels, choose_rows
from gmvq.data.source import SPLIT_ALIASES

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_IDX_NAME = re.compile(r"idx\d(-ubyte)?(\.gz)?$|-ubyte(\.gz)?$")
_FASHION_VALIDATION = 5_000


def is_idx(path: Path) -> bool:
    """Tell an IDX file by its name, such as train-images-idx3-ubyte.gz or images.idx3."""
    return _IDX_NAME.search(path.name.lower()) is not None


def open_idx(path: Path, split: str, channels: int, size: int, fractions: tuple[float, float]) -> PixelArray:
    """Open one split of an IDX file of images, or of a folder of them (train-..., t10k-... or test-...).

    Raises:
        ValueError: not an IDX file of uint8 images, truncated, or no such file in the folder.
    """
    files = [path] if path.is_file() else sorted(child for child in path.iterdir() if is_idx(child))
    pixels: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, NDArray[np.generic]] = {}
    for file in files:
        word = re.split(r"[^a-z0-9]+", file.name.lower())[0]
        part = SPLIT_ALIASES.get(word, "all") if path.is_dir() else "all"
        if path.is_dir() and re.search(r"labels|idx1", file.name.lower()):
            labels[part] = read_idx(file)
        else:
            pixels[part] = _padded(check_pixels(read_idx(file), file.name), size)
    if not pixels:
        raise ValueError(
            f"{path} holds no IDX file of images, only: {', '.join(file.name for file in files)}"
        )
    return choose_rows(pixels, labels, split, channels, fractions, path.name, "whole")


def open_fashion_mnist(split: str, channels: int, size: int) -> PixelArray:
    """Open Fashion-MNIST: its own test split; validation is the last 5,000 of its train split.

    Raises:
        FileNotFoundError: the Debian package is not installed.
    """
    if not FASHION_MNIST.is_dir():
        raise FileNotFoundError(
            f"Fashion-MNIST is not at {FASHION_MNIST}; install it with: apt install dataset-fashion-mnist, "
            "or give the folder with its four IDX files"
        )
    home = "t10k" if split == "test" else "train"
    pixels = _padded(check_pixels(read_idx(FASHION_MNIST / f"{home}-images-idx3-ubyte.gz"), home), size)
    labels = read_idx(FASHION_MNIST / f"{home}-labels-idx1-ubyte.gz").astype(np.int64)
    rows = np.arange(len(pixels))
    if split != "test":
        rows = rows[:-_FASHION_VALIDATION] if split == "train" else rows[-_FASHION_VALIDATION:]
    rule = "validation = last 5,000 of the official train split" if split != "test" else "official test split"
    return PixelArray(
        pixels, rows, labels, channels, f"fashion_mnist[{home}]", f"fashion_mnist ({split}; {rule})", "whole"
    )


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


def _padded(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Give 28 x 28 images a black border when 32 x 32 is asked for, as the field does; else leave them."""
    if size == 32 and pixels.shape[1:3] == (28, 28):
        return np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return pixels

"""Images already decoded: .npy and .npz files, and the in-memory source they share with IDX files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmvq.data.decode import convert_channels
from gmvq.data.source import Framing, split_rows, split_rule

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


@dataclass
class PixelArray:
    """Rows of one uint8 array of shape (N, H, W, 1, 3 or 4), converted to ``channels`` as they are read."""

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    channels: int
    prefix: str
    description: str
    framing: Framing = "crop"
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> NDArray[np.uint8]:
        return convert_channels(np.asarray(self.pixels[self.rows[index]]), self.channels)

    def stack(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return convert_channels(np.asarray(self.pixels[self.rows[indices]]), self.channels)

    def name(self, index: int) -> str:
        return f"{self.prefix}:{self.rows[index]}"

    def label(self, index: int) -> int | None:
        return None if self.labels is None else int(self.labels[self.rows[index]])


def open_npy(path: Path, split: str, channels: int, fractions: tuple[float, float]) -> PixelArray:
    """Open one split of an .npy file; uint8 stays on disk (memory-mapped), floats become uint8 in memory.

    Raises:
        ValueError: the file is no array of images, or holds pickled objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}; {_EXPECTED}") from error
    pixels = check_pixels(array, path.name)
    return choose_rows({"all": pixels}, {}, split, channels, fractions, path.name)


def open_npz(path: Path, split: str, channels: int, fractions: tuple[float, float]) -> PixelArray:
    """Open one split of an .npz file with the key images, x or data, or with train/test or x_train/x_test.

    Raises:
        ValueError: none of these keys is there, or the arrays are no images.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: _first(archive, keys) for name, keys in NPZ_KEYS.items()}
            images = {name: archive[key] for name, key in found.items() if key is not None}
            keys = {name: _first(archive, _NPZ_LABELS[name]) for name in images}
            labels = {name: archive[key] for name, key in keys.items() if key is not None}
            there = ", ".join(archive.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}; expected an .npz of numeric arrays") from error
    if not images:
        raise ValueError(
            f"{path} holds the keys {there}; expected images, x or data, or a pair such as train and test or "
            "x_train and x_test"
        )
    if "train" in images or "test" in images:
        images.pop("all", None)
    pixels = {name: check_pixels(array, f"{path.name}[{name}]") for name, array in images.items()}
    return choose_rows(pixels, labels, split, channels, fractions, path.name)


def choose_rows(
    pixels: Mapping[str, NDArray[np.uint8]],
    labels: Mapping[str, NDArray[np.generic]],
    split: str,
    channels: int,
    fractions: tuple[float, float],
    name: str,
    framing: Framing = "crop",
) -> PixelArray:
    """Make the source of one split from the arrays a file came with (the key "all": not divided yet)."""
    sizes = {"train" if key == "all" else key: len(array) for key, array in pixels.items()}
    home, rows = split_rows(sizes, split, fractions)
    key = home if home in pixels else "all"
    known = labels.get(key)
    if known is not None and (known.shape != (len(pixels[key]),) or known.dtype.kind not in "iu"):
        raise ValueError(
            f"labels of {name} must be {len(pixels[key])} integers, got {known.dtype} of shape {known.shape}"
        )
    return PixelArray(
        pixels=pixels[key],
        rows=rows,
        labels=None if known is None else known.astype(np.int64),
        channels=channels,
        prefix=f"{name}[{home}]" if len(pixels) > 1 else name,
        description=f"{name} ({split}; {split_rule(sizes, split, fractions)})",
        framing=framing,
    )


def check_pixels(array: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
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
        return array.astype(np.uint8, copy=False)
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


def _first(archive: Mapping[str, object], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in archive), None)

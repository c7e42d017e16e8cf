"""Time series as arrays: .npy, .npz, .csv, or a folder of .npy and .csv files with a series each."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmvq.data.arrays import NPZ_KEYS
from gmvq.data.csv_table import read_csv
from gmvq.data.folder import listing
from gmvq.data.scale import SignalScale
from gmvq.data.source import hash_split, split_rows, split_rule, time_block

_EXPECTED = "expected numbers of shape (T,), (N, T) or (N, channels, T)"
_KEYS = {**NPZ_KEYS, "all": ("series", "signals", "x", "data")}
_MARGIN = 0.1
"""Added to the range of the training split at either end, as a share of it: other splits reach a little further."""

Series = list[NDArray[np.float32]]
"""Arrays (channels, T), each of its own length."""


@dataclass
class SeriesArrays:
    """Series in memory."""

    series: Series
    names: list[str]
    scale: SignalScale
    description: str
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lengths = np.array([one.shape[1] for one in self.series], dtype=np.int64)

    def read(self, index: int, start: int, stop: int) -> NDArray[np.float32]:
        return self.series[index][:, start:stop]

    def name(self, index: int) -> str:
        return self.names[index]


def open_series(
    path: Path,
    split: str,
    channels: int,
    column: str | None,
    limits: tuple[float, float] | None,
    fractions: tuple[float, float],
) -> SeriesArrays:
    """Open one split of a file or folder of series.

    An .npz may come divided (train, test, ...); else series are divided by a fixed hash of their name or number, and
    a single one in time: its beginning is the train split, its end the test split.

    Args:
        path: an .npy, .npz or .csv file, or a folder of .npy and .csv files.
        split: "train", "validation" or "test".
        channels: of every series.
        column: columns of a .csv file, separated by commas; default: all that hold numbers.
        limits: values that become 0 and 1; default: the range of the train split, and a tenth of it more either way.
        fractions: the shares of validation and test, where the set does not come divided.

    Raises:
        ValueError: no series, NaN, or other channels.
    """
    if path.suffix.lower() == ".npz":
        parts = _read_npz(path)
        sizes = {"train" if key == "all" else key: len(series) for key, series in parts.items()}
        if sum(sizes.values()) > 1:
            home, rows = split_rows(sizes, split, fractions)
            series = parts[home if home in parts else "all"]
            train = parts.get("train", parts.get("all", series))
            if home == "train" and train is series:
                train = [series[i] for i in split_rows(sizes, "train", fractions)[1]]
            names = [f"{path.name}[{home}]:{row}" if len(parts) > 1 else f"{path.name}:{row}" for row in rows]
            rule = split_rule(sizes, split, fractions)
            return _chosen(
                [series[i] for i in rows], train, names, channels, limits, f"{path.name} ({split}; {rule})"
            )
        named = [(path.name, one) for series in parts.values() for one in series]
    elif path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in (".npy", ".csv") and file.is_file()
        )
        named = [(file.relative_to(path).as_posix(), one) for file in files for one in _one(file, column)]
        if not named:
            other = [
                (file.name, f"no series: {file.suffix}") for file in sorted(path.rglob("*")) if file.is_file()
            ]
            raise ValueError(f"no .wav, .npy or .csv file in {path}: found {listing(other)}")
    else:
        found = read_series(path, column)
        named = [(f"{path.name}:{i}" if len(found) > 1 else path.name, one) for i, one in enumerate(found)]
    return choose_series(named, path.name, split, channels, limits, fractions)


def choose_series(
    named: list[tuple[str, NDArray[np.float32]]],
    title: str,
    split: str,
    channels: int,
    limits: tuple[float, float] | None,
    fractions: tuple[float, float],
) -> SeriesArrays:
    """Make the source of one split from (name, series) pairs that do not come divided."""
    if len(named) == 1:
        name, whole = named[0]
        (first, last), rule = time_block(whole.shape[1], split, fractions)
        (begin, end), _ = time_block(whole.shape[1], "train", fractions)
        title = f"{title} ({split}; {rule})"
        return _chosen([whole[:, first:last]], [whole[:, begin:end]], [name], channels, limits, title)
    keys = [name for name, _ in named]
    whole_set = split == "train" and fractions == (0.0, 0.0)
    rows = np.arange(len(named)) if whole_set else hash_split(keys, split, fractions, "series")
    train = rows if split == "train" else hash_split(keys, "train", fractions, "series")
    rule = (
        "all"
        if whole_set
        else f"split by a fixed hash, {fractions[0]:.0%} validation, {fractions[1]:.0%} test"
    )
    return _chosen(
        [named[i][1] for i in rows],
        [named[i][1] for i in train],
        [keys[i] for i in rows],
        channels,
        limits,
        f"{title} ({split}; {rule})",
    )


def read_series(path: Path, column: str | None = None) -> Series:
    """Read every series of one .npy or .csv file, in their own units.

    Raises:
        ValueError: the file is neither, cannot be read, or holds NaN.
    """
    if path.suffix.lower() == ".csv":
        return [_finite(read_csv(path, column), path.name)]
    if path.suffix.lower() != ".npy":
        raise ValueError(f"cannot use {path}: signals are .wav, .npy, .npz or .csv files, or folders of them")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}; {_EXPECTED}") from error
    return _series(array, path.name)


def _one(file: Path, column: str | None) -> Series:
    """The series of one file of a folder: (T,), or (channels, T)."""
    found = read_series(file, column)
    if any(len(one) != 1 for one in found) and len(found) > 1:
        raise ValueError(
            f"{file.name} holds {len(found)} series; in a folder each file holds one, (channels, T)"
        )
    return found if len(found) == 1 else [np.concatenate(found)]


def _read_npz(path: Path) -> dict[str, Series]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {
                part: next((key for key in keys if key in archive), None) for part, keys in _KEYS.items()
            }
            arrays = {part: archive[key] for part, key in found.items() if key is not None}
            there = ", ".join(archive.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}; expected an .npz of numeric arrays") from error
    if not arrays:
        raise ValueError(
            f"{path} holds the keys {there}; expected series, x or data, or a pair such as train and test"
        )
    if "train" in arrays or "test" in arrays:
        arrays.pop("all", None)
    return {part: _series(array, f"{path.name}[{part}]") for part, array in arrays.items()}


def _series(array: NDArray[np.generic], name: str) -> Series:
    got = f"{name} has {array.dtype} of shape {array.shape}"
    if array.dtype.kind not in "fiu" or array.size == 0 or not 1 <= array.ndim <= 3:
        hint = "; arrays of images: leave --model.spatial_dims at 2" if array.ndim == 4 else ""
        raise ValueError(f"{got}; {_EXPECTED}{hint}")
    shape = (1, 1, -1) if array.ndim == 1 else (len(array), 1, -1) if array.ndim == 2 else array.shape
    return list(_finite(array.reshape(shape).astype(np.float32), name))


def _finite(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values of {values.size}; fill or remove them")
    return values


def _chosen(
    series: Series,
    train: Series,
    names: list[str],
    channels: int,
    limits: tuple[float, float] | None,
    description: str,
) -> SeriesArrays:
    for name, one in zip(names, series, strict=True):
        if len(one) != channels:
            raise ValueError(
                f"{name} has {len(one)} channel{'s' * (len(one) > 1)}, and the model takes {channels}; pass "
                f"--model.channels {len(one)}, or choose columns of a .csv file with --data.column"
            )
    if limits is None:
        low, high = min(float(one.min()) for one in train), max(float(one.max()) for one in train)
        if low == high:
            raise ValueError(f"every value of the train split is {low}: there is nothing to learn")
        limits = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    return SeriesArrays(series, names, SignalScale(*limits), description)

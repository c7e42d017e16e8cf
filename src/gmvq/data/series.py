"""Time series as arrays: .npy, .npz, .csv, or a folder of .npy and .csv files with a series each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import NPZ_KEYS, read_npy, read_npz
from .csv_table import read_csv
from .folders import Listing, summary
from .signals import SignalScale, SignalSource, choose_spans
from .skipping import OTHER_KIND, Skipped
from .splits import Wanted
from .synthetic_ecg import synthetic_ecg

SERIES_SUFFIXES = (".npy", ".csv")
_EXPECTED = "expected numbers of shape (T,), (N, T) or (N, channels, T)"
_KEYS = {**NPZ_KEYS, "all": ("series", "signals", "x", "data")}
_MARGIN = 0.1
"""Added to the range of the training split at either end, as a share of it: other splits reach a little further."""

Series = list[NDArray[np.float32]]
"""Arrays (channels, T), each of its own length."""
Named = tuple[str, NDArray[np.float32]]
"""A series and its name."""


def open_series(path: Path, listing: Listing, wanted: Wanted) -> SignalSource:
    """Open one split of an .npz, .npy or .csv file of series, or of a folder of .npy and .csv files.

    An .npz may come divided (train, test, ...); else series are divided by a fixed hash of their name or number, and
    a single one in time: its beginning is the train split, its end the test split.
    """
    if path.suffix.lower() == ".npz":
        return _open_npz(path, wanted)
    if path.is_dir():
        series, skipped = _read_folder(path, listing, wanted)
    else:
        found = _read_file(path, wanted.column)
        numbered, skipped = _without_gaps(found, path.name)
        series = [(path.name if len(found) == 1 else f"{path.name}:{i}", one) for i, one in numbered]
    keys = {"train": [name for name, _ in series]}
    return replace(_choose(keys, {"train": series}, path.name, wanted), skipped=skipped)


def _open_npz(path: Path, wanted: Wanted) -> SignalSource:
    parts, keys, named, skipped = _read_npz(path), {}, {}, list[Skipped]()
    for part, some in parts.items():
        title = f"{path.name}[{part}]" if len(parts) > 1 else path.name
        numbered, bad = _without_gaps(some, title)
        keys[part] = [number for number, _ in numbered]
        named[part] = [(f"{title}:{number}", one) for number, one in numbered]
        skipped += bad
    return replace(_choose(keys, named, path.name, wanted), skipped=skipped)


def _read_folder(path: Path, listing: Listing, wanted: Wanted) -> tuple[list[Named], list[Skipped]]:
    """The series of a folder's files, and what is left out: other files, broken ones, those of other channels."""
    files = [file for file in listing.files if file.lower().endswith(SERIES_SUFFIXES)]
    other = [(file, f"{OTHER_KIND}: {Path(file).suffix}") for file in set(listing.files) - set(files)]
    skipped, series = other + listing.skipped, list[Named]()
    for file in files:
        try:
            series.append((file, _one(path / file, wanted.column)))
        except (ValueError, OSError) as error:
            skipped.append((file, str(error)))
    if not series:
        raise ValueError(
            f"no .wav, .flac, .ogg, .npy or .csv file in {path} can be read: found {summary(sorted(skipped))}"
        )
    fitting = [one for one in series if len(one[1]) == wanted.channels]
    if fitting:
        skipped += [
            (name, f"it has {len(one)} channels, and the model takes {wanted.channels}")
            for name, one in series
            if len(one) != wanted.channels
        ]
    return fitting or series, sorted(skipped)


def open_synthetic_ecg(wanted: Wanted) -> SignalSource:
    """Open one split of the built-in electrocardiograms."""
    series = synthetic_ecg()
    return _choose({"train": [name for name, _ in series]}, {"train": series}, "synthetic_ecg", wanted)


def read_series(path: Path, column: str | None = None) -> Series:
    """Read every series of one .npy or .csv file, in their own units."""
    found = _read_file(path, column)
    for one in found:
        _check_finite(one, path.name)
    return found


def _read_file(path: Path, column: str | None) -> Series:
    """``read_series``, NaN included."""
    if path.suffix.lower() == ".csv":
        return [read_csv(path, column)]
    if path.suffix.lower() != ".npy":
        raise ValueError(
            f"cannot use {path}: signals are .wav, .flac, .ogg, .npy, .npz or .csv files, or folders of them"
        )
    return _series(read_npy(path, _EXPECTED), path.name)


def _choose(
    keys: Mapping[str, Any],
    named: Mapping[str, list[Named]],
    title: str,
    wanted: Wanted,
) -> SignalSource:
    """Make the source of one split from the keys and the (name, series) pairs of the splits that there are."""
    lengths = {part: [one.shape[1] for _, one in some] for part, some in named.items()}
    home, spans, rule = choose_spans(keys, lengths, wanted, "series")
    names, series = [name for name, _ in named[home]], [one for _, one in named[home]]
    for number in spans[:, 0]:
        if len(series[number]) != wanted.channels:
            found = len(series[number])
            raise ValueError(
                f"{names[number]} has {found} channel{'s' * (found > 1)}, and the model takes {wanted.channels}; pass "
                f"--model.channels {found}, or choose columns of a .csv file with --data.column"
            )
    limits = wanted.limits
    if limits is None:
        train, of_train = home, spans
        if "train" in keys and wanted.split != "train":
            train, of_train, _ = choose_spans(keys, lengths, replace(wanted, split="train"), "series")
        limits = _limits([named[train][number][1][:, first:last] for number, first, last in of_train])
    read = partial(_read, series)
    return SignalSource(read, spans, names, SignalScale(*limits), f"{title} ({wanted.split}; {rule})")


def _read(series: Series, number: int, start: int, stop: int) -> NDArray[np.float32]:
    return series[number][:, start:stop]


def _limits(train: Series) -> tuple[float, float]:
    low, high = min(float(one.min()) for one in train), max(float(one.max()) for one in train)
    if low == high:
        raise ValueError(f"every value of the train split is {low}: there is nothing to learn")
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _one(file: Path, column: str | None) -> NDArray[np.float32]:
    """The series of one file of a folder: (T,), or (channels, T)."""
    found = read_series(file, column)
    if any(len(one) != 1 for one in found) and len(found) > 1:
        raise ValueError(
            f"{file.name} holds {len(found)} series; in a folder each file holds one, (channels, T)"
        )
    return np.concatenate(found)


def _read_npz(path: Path) -> dict[str, Series]:
    arrays, there = read_npz(path, _KEYS)
    if not arrays:
        raise ValueError(
            f"{path} holds the keys {there}; expected series, x or data, or a pair such as train and test"
        )
    return {part: _series(array, f"{path.name}[{part}]") for part, array in arrays.items()}


def _series(array: NDArray[Any], name: str) -> Series:
    got = f"{name} has {array.dtype} of shape {array.shape}"
    if array.dtype.kind not in "fiu" or array.size == 0 or not 1 <= array.ndim <= 3:
        hint = "; arrays of images: leave --model.spatial_dims at 2" if array.ndim == 4 else ""
        raise ValueError(f"{got}; {_EXPECTED}{hint}")
    shape = (1, 1, -1) if array.ndim == 1 else (len(array), 1, -1) if array.ndim == 2 else array.shape
    return list(array.reshape(shape).astype(np.float32))


def _without_gaps(series: Series, title: str) -> tuple[list[tuple[int, NDArray[np.float32]]], list[Skipped]]:
    """The series without NaN, each with its number, and the others with the reason."""
    good, bad = list[tuple[int, NDArray[np.float32]]](), list[Skipped]()
    for number, one in enumerate(series):
        name = title if len(series) == 1 else f"{title}:{number}"
        try:
            _check_finite(one, name)
            good.append((number, one))
        except ValueError as error:
            if len(bad) == len(series) - 1:
                raise
            bad.append((name, str(error)))
    return good, bad


def _check_finite(values: NDArray[np.float32], name: str) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values of {values.size}; fill or remove them")

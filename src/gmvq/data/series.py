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
from .folders import Listing, split_folders, summary
from .signals import SignalScale, SignalSource, choose_spans, wrong_channels
from .skipping import OTHER_KIND, Skipped
from .splits import Wanted
from .synthetic_ecg import synthetic_ecg

SERIES_SUFFIXES = (".npy", ".csv")
_EXPECTED = "expected numbers of shape (T,), (N, T) or (N, channels, T)"
_KEYS = {**NPZ_KEYS, "all": ("series", "signals", "x", "data")}
_COLUMNS = ", or choose columns of a .csv file with --data.column"
_MARGIN = 0.1
"""Added to the range of the training split at either end, as a share of it: other splits reach a little further."""

Series = list[NDArray[np.float32]]
"""Arrays (channels, T), each of its own length."""
Named = list[tuple[str, NDArray[np.float32]]]
"""Series with their names."""


def open_series(path: Path, listing: Listing, wanted: Wanted) -> SignalSource:
    """Open one split of an .npz, .npy or .csv file of series, or of a folder of .npy and .csv files.

    An .npz may come divided (train, test, ...), and so may a folder, by subfolders called so; else series are divided
    by a fixed hash of their name or number, and a single one in time: its beginning is the train split, its end the
    test split.
    """
    skipped, keys = list[Skipped](), None
    if path.is_dir():
        named = _read_folder(path, listing, wanted, skipped)
    elif path.suffix.lower() == ".npz":
        named = _read_npz(path, skipped)
        keys = {part: [name.rpartition(":")[2] for name, _ in some] for part, some in named.items()}
    else:
        found = _read_file(path, wanted.column)
        series = [(path.name, found[0])] if len(found) == 1 else _numbered(found, path.name)
        named = {"train": _without_gaps(series, skipped)}
    return replace(_choose(named, path.name, wanted, keys), skipped=sorted(skipped))


def _read_folder(path: Path, listing: Listing, wanted: Wanted, skipped: list[Skipped]) -> dict[str, Named]:
    """The series of a folder's files, those of its subfolders train, val and test by split where there is a train.

    Other files, broken ones, those of other channels go to ``skipped``.
    """
    parts = {top: part for part, tops in split_folders(path).items() for top in tops}
    there = [file for file in listing.files if not parts or file.split("/")[0] in parts]
    files = [file for file in there if file.lower().endswith(SERIES_SUFFIXES)]
    skipped += [(file, f"{OTHER_KIND}: {Path(file).suffix}") for file in set(there) - set(files)]
    skipped += [one for one in listing.skipped if not parts or one[0].split("/")[0] in parts]
    series: Named = []
    for file in files:
        try:
            series.append((file, _one(path / file, wanted.column)))
        except (ValueError, OSError) as error:
            skipped.append((file, str(error)))
    if not series:
        raise ValueError(
            f"no .wav, .flac, .ogg, .npy or .csv file in {path} can be read: found {summary(sorted(skipped))}"
        )
    fitting = [(name, one) for name, one in series if len(one) == wanted.channels]
    if fitting:
        others = [(name, len(one)) for name, one in series if len(one) != wanted.channels]
        skipped += [(name, wrong_channels("it", found, wanted.channels, _COLUMNS)) for name, found in others]
    named: dict[str, Named] = {}
    for name, one in fitting or series:
        named.setdefault(parts.get(name.split("/")[0], "train"), []).append((name, one))
    return named


def _read_npz(path: Path, skipped: list[Skipped]) -> dict[str, Named]:
    arrays, there = read_npz(path, _KEYS)
    if not arrays:
        raise ValueError(
            f"{path} holds the keys {there}; expected series, x or data, or a pair such as train and test"
        )
    named: dict[str, Named] = {}
    for part, array in arrays.items():
        title = f"{path.name}[{part}]"
        series = _numbered(_series(array, title), title if len(arrays) > 1 else path.name)
        named[part] = _without_gaps(series, skipped)
    return named


def open_synthetic_ecg(wanted: Wanted) -> SignalSource:
    """Open one split of the built-in electrocardiograms."""
    return _choose({"train": synthetic_ecg()}, "synthetic_ecg", wanted)


def read_series(path: Path, column: str | None = None) -> Series:
    """Read every series of one .npy or .csv file, in their own units."""
    found = _read_file(path, column)
    for problem in filter(None, (_gaps(one, path.name) for one in found)):
        raise ValueError(problem)
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


def _one(file: Path, column: str | None) -> NDArray[np.float32]:
    """The series of one file of a folder: (T,), or (channels, T)."""
    found = read_series(file, column)
    if any(len(one) != 1 for one in found) and len(found) > 1:
        raise ValueError(
            f"{file.name} holds {len(found)} series; in a folder each file holds one, (channels, T)"
        )
    return np.concatenate(found)


def _choose(
    named: Mapping[str, Named], title: str, wanted: Wanted, keys: Mapping[str, list[str]] | None = None
) -> SignalSource:
    """Make the source of one split from the series of the splits that there are, which ``keys`` or names divide."""
    keys = keys or {part: [name for name, _ in some] for part, some in named.items()}
    lengths = {part: [one.shape[1] for _, one in some] for part, some in named.items()}
    home, spans, rule = choose_spans(keys, lengths, wanted, "series")
    names, series = [name for name, _ in named[home]], [one for _, one in named[home]]
    for number in spans[:, 0]:
        if len(series[number]) != wanted.channels:
            raise ValueError(wrong_channels(names[number], len(series[number]), wanted.channels, _COLUMNS))
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


def _series(array: NDArray[Any], name: str) -> Series:
    got = f"{name} has {array.dtype} of shape {array.shape}"
    if array.dtype.kind not in "fiu" or array.size == 0 or not 1 <= array.ndim <= 3:
        hint = "; arrays of images: leave --model.spatial_dims at 2" if array.ndim == 4 else ""
        raise ValueError(f"{got}; {_EXPECTED}{hint}")
    shape = (1, 1, -1) if array.ndim == 1 else (len(array), 1, -1) if array.ndim == 2 else array.shape
    return list(array.reshape(shape).astype(np.float32))


def _numbered(series: Series, title: str) -> Named:
    return [(f"{title}:{number}", one) for number, one in enumerate(series)]


def _without_gaps(series: Named, skipped: list[Skipped]) -> Named:
    """Those without NaN; the others go to ``skipped``, and raise ValueError if they are all."""
    gaps = {name: problem for name, one in series if (problem := _gaps(one, name))}
    if len(gaps) == len(series):
        raise ValueError(next(iter(gaps.values())))
    skipped += gaps.items()
    return [(name, one) for name, one in series if name not in gaps]


def _gaps(values: NDArray[np.float32], name: str) -> str:
    """What is wrong with a series that holds NaN; empty for others."""
    bad = int((~np.isfinite(values)).sum())
    return f"{name} holds {bad} NaN or infinite values of {values.size}; fill or remove them" if bad else ""

"""`open_signals`: from a name or a path to windows of signals; `open_dataset`: those, or images, for a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gmvq.data.opening import BUILT_IN, SIGNALS, check_fractions, missing, open_images
from gmvq.data.recordings import open_recordings, open_speech
from gmvq.data.scale import SignalScale
from gmvq.data.series import choose_series, open_series
from gmvq.data.signals import SignalDataset, SignalSource, TrainingSet
from gmvq.data.source import SPLITS
from gmvq.data.synthetic_ecg import synthetic_ecg
from gmvq.errors import check_choice, check_positive

_IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".parquet",
    ".ttf",
    ".otf",
    ".ttc",
    ".gif",
    ".bmp",
    ".tiff",
)


def open_signals(
    path: str | os.PathLike[str] = "speech",
    *,
    split: str = "train",
    size: int = 1024,
    channels: int = 1,
    augment: bool | None = None,
    column: str | None = None,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    split_fractions: tuple[float, float] = (0.1, 0.1),
) -> SignalDataset:
    """Open one split of recordings or series as windows of shape (channels, size), on the scale [0, 1].

    Args:
        path: "speech" (8 kHz, from a Debian package), "synthetic_ecg" (built in), or the path of a folder of .wav
            files, of .npy and .csv files, or of one .wav, .npy, .npz or .csv file.
        split: "train", "validation" or "test". Recordings and series are divided whole; a single one in time.
        size: samples of every window.
        channels: of the signals; 1 takes the mean over the channels of a recording.
        augment: windows that begin anywhere; None means for the train split only.
        column: columns of a .csv file, separated by commas.
        value_range: values that become 0 and 1; default: -1 and 1 for recordings, the range of the train split, a
            tenth wider at either end, for series.
        seed: of the augmentation.
        split_fractions: shares of validation and test, where the set does not come divided.

    Raises:
        FileNotFoundError: no such path; the message lists the names there are.
        ValueError: an argument is out of range, or what lies there holds no signals, several sample rates, NaN, or
            other channels.

    Example:
        >>> dataset = open_signals("synthetic_ecg", split="test", size=512)
        >>> dataset[0].shape
        torch.Size([1, 512])
    """
    check_choice("split", split, SPLITS)
    check_positive("size", size)
    check_positive("channels", channels)
    fractions = check_fractions(split_fractions)
    limits = None if value_range is None else (float(value_range[0]), float(value_range[1]))
    if limits is not None:
        SignalScale(*limits)
    source = _source(os.fspath(path), split, channels, column, limits, fractions)
    augment = split == "train" if augment is None else augment
    return SignalDataset(source, size=size, channels=channels, augment=augment, seed=seed)


def open_dataset(
    path: str | os.PathLike[str],
    *,
    spatial_dims: int = 2,
    flip: bool = True,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> TrainingSet:
    """Open what a model of so many spatial dimensions takes: signals for 1, images for 2.

    Args:
        path: as in ``open_images`` or ``open_signals``.
        spatial_dims: of the model's networks.
        flip: for images.
        value_range: for signals.
        options: of both.

    Raises:
        ValueError: there is no data of other dimensions; and as ``open_images`` and ``open_signals``.
    """
    if spatial_dims == 1:
        return open_signals(path, value_range=value_range, **options)
    if spatial_dims == 2:
        return open_images(path, flip=flip, **options)
    raise ValueError(
        f"data is of 1 (signals) or 2 (images) spatial dimensions, and the model takes {spatial_dims}"
    )


def _source(
    name: str,
    split: str,
    channels: int,
    column: str | None,
    limits: tuple[float, float] | None,
    fractions: tuple[float, float],
) -> SignalSource:
    if name == "speech":
        return open_speech(split, channels, limits, fractions)
    if name == "synthetic_ecg":
        return choose_series(synthetic_ecg(), name, split, channels, limits, fractions)
    path = Path(name).expanduser()
    if name in BUILT_IN or name.startswith("hf:") or path.suffix.lower() in _IMAGE_SUFFIXES:
        raise ValueError(
            f"{name!r} holds images, and the model takes signals (--model.spatial_dims 1); leave that at 2, or give "
            f"{' or '.join(SIGNALS)}, a .wav, .npy, .npz or .csv file, or a folder of them"
        )
    if not name or not path.exists():
        raise FileNotFoundError(missing(name, path, SIGNALS, "signals (.wav, .npy, .npz, .csv)"))
    recording = path.suffix.lower() == ".wav" if path.is_file() else _has_wav(path)
    if recording:
        return open_recordings(path, split, channels, limits, fractions)
    return open_series(path, split, channels, column, limits, fractions)


def _has_wav(folder: Path) -> bool:
    return any(file.suffix.lower() == ".wav" for file in folder.rglob("*"))

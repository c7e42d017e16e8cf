"""`open_images`, `open_signals`, `open_dataset`: from a name or a path to a data set, by looking at what is there."""

from __future__ import annotations

import difflib
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..reading import not_a_file
from .arrays import is_idx, open_arrays, open_fashion_mnist
from .audio import AUDIO_SUFFIXES, open_audio, open_speech
from .dataset import ImageDataset, check_channels
from .decode import image_suffixes
from .emoji import find_font, open_emoji
from .folders import Listing, open_folder, open_image, walk
from .photos import open_photos
from .pictures import Crops, Source
from .scale import SignalScale
from .series import open_series, open_synthetic_ecg
from .shards import SHARD_SUFFIXES, open_shards
from .signals import SignalDataset, SignalSource, TrainingSet
from .splits import Wanted
from .stream import STREAM, open_stream
from .tables import is_saved, open_hub, open_parquet, open_saved

_IMAGES = ("photos", "fashion_mnist", "emoji", "all_photos")
_SIGNALS = ("speech", "synthetic_ecg")
_FONTS = (".ttf", ".otf", ".ttc")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".parquet", *_FONTS)
_NO_FILES = Listing([], [])
_told_apart: set[str] = set()


def open_images(
    path: str | os.PathLike[str] = "photos",
    *,
    split: str = "train",
    size: int = 32,
    channels: int = 3,
    augment: bool | None = None,
    flip: bool = True,
    column: str | None = None,
    seed: int = 0,
    split_fractions: tuple[float, float] = (0.1, 0.1),
    crops: Crops = "auto",
    vary: bool = False,
) -> ImageDataset:
    """Open one split of a set of images as items of shape (channels, size, size) in [0, 1].

    Args:
        path: "photos" and "all_photos" (built in), "fashion_mnist", "emoji", "hf:NAME", or the path of a folder of
            images, an image, .npy, .npz, IDX, Parquet or WebDataset .tar (file or folder), a folder that ``datasets``
            saved, or a font; "stream:PATH" and "stream:hf:NAME" read Parquet in place, without a copy or a download
            ahead. Names come first: a folder called photos is "./photos".
        split: "train", "validation" or "test".
        size: height and width of every item, in pixels.
        channels: 3 for RGB, 1 for luminance.
        augment: random crops and flips; None means for the train split only.
        flip: include mirror images in the augmentation.
        column: the table column with the images, where its name is not a usual one.
        seed: of the augmentation.
        split_fractions: shares of validation and test, where the set does not come divided.
        crops: what a crop shows of a picture: "scales" is a part of it, at random scales and places, and the items are
            tiles of it where nothing is augmented; "whole" is nearly all of it, scaled down. "auto" is "scales" for
            files of pictures much larger than the crop: 512 pixels or more, and four crops or more, along the shorter
            side of the median one. The tiles of "photos" are cut at full size unless "scales" is asked for.
        vary: include quarter turns and changed colours in the augmentation: more pictures out of few photographs.

    Raises:
        FileNotFoundError: no such path; the message lists the names there are.
        ValueError: an argument is out of range, or what lies there holds no images.
        MissingExtraError: a package of the extra "data" is not installed.

    Example:
        >>> dataset = open_images("photos", split="test", size=64)
        >>> dataset[0].shape
        torch.Size([3, 64, 64])
    """
    check_channels(channels)
    _tell_apart(os.fspath(path), _IMAGES)
    source = _pictures(os.fspath(path), Wanted(split, size, channels, column, split_fractions))
    augment = split == "train" if augment is None else augment
    return ImageDataset(
        source, size=size, channels=channels, augment=augment, flip=flip, seed=seed, crops=crops, vary=vary
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
    sample_rate: int | None = None,
    seed: int = 0,
    split_fractions: tuple[float, float] = (0.1, 0.1),
) -> SignalDataset:
    """Open one split of recordings or series as windows of shape (channels, size), on the scale [0, 1].

    Args:
        path: "speech" (8 kHz, from a Debian package), "synthetic_ecg" (built in), or the path of a folder of .wav,
            .flac and .ogg files, of .npy and .csv files, or of one of these or an .npz file.
        split: "train", "validation" or "test". Recordings and series are divided whole; a single one in time.
        size: samples of every window.
        channels: of the signals; 1 takes the mean over the channels of a recording.
        augment: windows that begin anywhere; None means for the train split only.
        column: columns of a .csv file, separated by commas.
        value_range: values that become 0 and 1; default: -1 and 1 for recordings, the range of the train split, a
            tenth wider at either end, for series.
        sample_rate: of the recordings to use, in Hz; those at another one are skipped. Default: all have to be at one.
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
    limits = None if value_range is None else (float(value_range[0]), float(value_range[1]))
    if limits is not None:
        SignalScale(*limits)
    _tell_apart(os.fspath(path), _SIGNALS)
    source = _signals(
        os.fspath(path), Wanted(split, size, channels, column, split_fractions, limits, sample_rate)
    )
    augment = split == "train" if augment is None else augment
    return SignalDataset(source, size=size, channels=channels, augment=augment, seed=seed)


def open_dataset(
    path: str | os.PathLike[str],
    *,
    spatial_dims: int = 2,
    flip: bool = True,
    crops: Crops = "auto",
    vary: bool = False,
    value_range: tuple[float, float] | None = None,
    sample_rate: int | None = None,
    **options: Any,
) -> TrainingSet:
    """Open what a model of so many spatial dimensions takes: signals for 1, images for 2.

    Args:
        path: as in ``open_images`` or ``open_signals``.
        spatial_dims: of the model's networks.
        flip, crops, vary: for images.
        value_range, sample_rate: for signals.
        options: of both.

    Raises:
        ValueError: there is no data of other dimensions; and as ``open_images`` and ``open_signals``.
    """
    if spatial_dims == 1:
        return open_signals(path, value_range=value_range, sample_rate=sample_rate, **options)
    if spatial_dims == 2:
        return open_images(path, flip=flip, crops=crops, vary=vary, **options)
    raise ValueError(
        f"data is of 1 (signals) or 2 (images) spatial dimensions, and the model takes {spatial_dims}"
    )


def _pictures(name: str, wanted: Wanted) -> Source:
    if name in ("photos", "all_photos"):
        return open_photos(wanted, name)
    if name == "fashion_mnist":
        return open_fashion_mnist(wanted)
    if name == "emoji":
        return open_emoji(find_font(), wanted)
    if name.startswith(STREAM):
        inner = name.removeprefix(STREAM)
        return open_stream(
            inner if inner.startswith("hf:") else str(_existing(inner, ("hf:NAME",), "Parquet")), wanted
        )
    if name.startswith("hf:"):
        return open_hub(name.removeprefix("hf:"), wanted)
    suffix = Path(name).suffix.lower()
    if name in _SIGNALS or suffix in (*AUDIO_SUFFIXES, ".csv"):
        raise ValueError(_these_are_signals(name))
    path = _existing(name, (*_IMAGES, "hf:NAME"), "images")
    if path.is_dir():
        return _folder_of_pictures(path, wanted)
    if suffix == ".parquet":
        return open_parquet(path, [], wanted)
    if name.lower().endswith(SHARD_SUFFIXES):
        return open_shards(path, [], wanted)
    if suffix in _FONTS:
        return open_emoji(path, wanted)
    if suffix in (".npy", ".npz") or is_idx(path.name):
        return open_arrays(path, wanted)
    return open_image(path, wanted)


def _folder_of_pictures(path: Path, wanted: Wanted) -> Source:
    listing = walk(path)
    parquet = [file for file in listing.files if file.endswith(".parquet")]
    shards = [file for file in listing.files if file.lower().endswith(SHARD_SUFFIXES)]
    found = None
    if parquet:
        found = open_parquet(path, parquet, wanted)
    elif shards and not any(Path(file).suffix.lower() in image_suffixes() for file in listing.files):
        found = open_shards(path, shards, wanted)
    elif is_saved(listing.files):
        found = open_saved(path, wanted)
    elif any("/" not in file and is_idx(file) for file in listing.files):
        found = open_arrays(path, wanted)
    if found is not None:
        return replace(found, skipped=[*listing.skipped, *found.skipped])
    try:
        return open_folder(path, listing, wanted)
    except ValueError as error:
        if any(file.lower().endswith((*AUDIO_SUFFIXES, ".csv")) for file in listing.files):
            raise ValueError(f"{error}. {_these_are_signals(str(path))}") from error
        raise


def _signals(name: str, wanted: Wanted) -> SignalSource:
    if name == "speech":
        return open_speech(wanted)
    if name == "synthetic_ecg":
        return open_synthetic_ecg(wanted)
    if name in _IMAGES or name.startswith("hf:") or Path(name).suffix.lower() in _IMAGE_SUFFIXES:
        raise ValueError(
            f"{name!r} holds images, and the model takes signals (--model.spatial_dims 1); leave that at 2, or give "
            f"{' or '.join(_SIGNALS)}, a .wav, .flac, .ogg, .npy, .npz or .csv file, or a folder of them"
        )
    path = _existing(name, _SIGNALS, "signals (.wav, .flac, .ogg, .npy, .npz, .csv)")
    listing = walk(path) if path.is_dir() else _NO_FILES
    if any(file.lower().endswith(AUDIO_SUFFIXES) for file in listing.files or [path.name]):
        return open_audio(path, listing, wanted)
    return open_series(path, listing, wanted)


def _these_are_signals(name: str) -> str:
    return (
        f"{name!r} holds signals, and the model takes images; pass --model.spatial_dims 1 and --model.channels of the "
        "signals (in Python: open_signals)"
    )


def _tell_apart(name: str, names: tuple[str, ...]) -> None:
    """Warn, once, where the name of a built-in set is that of a file or folder here, too."""
    if name in names and os.path.lexists(name) and (here := os.path.abspath(name)) not in _told_apart:
        _told_apart.add(here)
        warnings.warn(
            f"{name!r} is the built-in set; what lies here by that name is './{name}'", stacklevel=3
        )


def _existing(name: str, names: tuple[str, ...], what: str) -> Path:
    """The path that a name means."""
    path = Path(name).expanduser()
    if name and (path.is_dir() or path.is_file()):
        return path
    if name and os.path.lexists(path):
        raise ValueError(f"{name!r} cannot be read: {not_a_file(path)}")
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if path.name and path.parent.is_dir():
        children = [child.name for child in path.parent.iterdir()]
        near += [str(path.parent / child) for child in difflib.get_close_matches(path.name, children, n=3)]
    hint = f" Did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    raise FileNotFoundError(
        f"there is no {name!r} (looked in {Path.cwd()}).{hint} "
        f"Names: {', '.join(names)}; or give the path of a file or folder of {what}."
    )

"""`open_images`, `open_signals`, `open_dataset`, and `DataRecipe`, with which all commands around a model open data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dataset import ImageDataset
from .finding import find_pictures, find_signals
from .pictures import Crops
from .signals import SignalDataset, SignalScale, TrainingSet, check_sample_rate
from .splits import SPLITS, NoSuchSplitError, Wanted

#: What is set aside for validation and test where a set does not come divided.
_FRACTIONS = (0.1, 0.1)


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
    split_fractions: tuple[float, float] = _FRACTIONS,
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
        vary: include quarter turns, changed colours and, of tiles, smaller copies: more out of few photographs.

    Raises:
        FileNotFoundError: no such path; the message lists the names there are.
        ValueError: an argument is out of range, or what lies there holds no images.
        MissingExtraError: a package of the extra "data" is not installed.

    Example:
        >>> dataset = open_images("photos", split="test", size=64)
        >>> dataset[0].shape
        torch.Size([3, 64, 64])
    """
    source = find_pictures(os.fspath(path), Wanted(split, size, channels, column, split_fractions))
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
    split_fractions: tuple[float, float] = _FRACTIONS,
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
    wanted = Wanted(split, size, channels, column, split_fractions, value_range, sample_rate)
    source = find_signals(os.fspath(path), wanted)
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


@dataclass(frozen=True)
class DataRecipe:
    """How to open the images or signals of a run, on this machine or another.

    Args:
        path, size, channels, column: as in ``open_images`` or ``open_signals``.
        split: "train", "validation", "test", or "all": the three one after the other, or, where the set does not
            come divided, everything once, as a split called "all".
        divided: divide a set that does not come divided by the fixed hash of ``gmvq fit``; for the set that a
            model was trained on, so that its tokens keep to the same splits.
        scale: of signals: that of the model's training; None for images.
        crops: of images: "whole" makes one item of every picture, "scales" and "auto" are as in ``open_images``.
    """

    path: str
    split: str = "all"
    size: int = 32
    channels: int = 3
    column: str | None = None
    divided: bool = False
    scale: SignalScale | None = None
    crops: Crops = "whole"

    def open(self) -> dict[str, TrainingSet]:
        """Open the splits, by name; errors as in ``open_one``."""
        if self.split != "all":
            return {self.split: self.open_one(self.split)}
        place = Path(self.path).expanduser()
        # One table, array, font or image is one set.
        if place.is_file() and place.suffix.lower() != ".npz":
            whole = self.open_one("all")
            if not self.divided or len(whole) < len(SPLITS):
                return {"all": whole}
        found: dict[str, TrainingSet] = {}
        for split in SPLITS:
            try:
                found[split] = self.open_one(split, undivided=not self.divided)
            except NoSuchSplitError:
                if split == SPLITS[-1] and not found:
                    raise
        return {"all": found["train"]} if list(found) == ["train"] else found

    def open_one(self, split: str, *, undivided: bool = False) -> TrainingSet:
        """Open "train", "validation" or "test", or with "all" everything that no folder or file name sets aside.

        A set that does not come divided is all train if it is to stay ``undivided``. Errors are those of
        ``open_dataset``; signals of another sample rate raise ValueError, too.
        """
        options: dict[str, Any] = {
            "split": "train" if split == "all" else split,
            "split_fractions": (0.0, 0.0) if undivided or split == "all" else _FRACTIONS,
            "size": self.size,
            "channels": self.channels,
            "augment": False,
            "column": self.column,
        }
        scale = self.scale
        if scale is None:
            return open_images(self.path, crops=self.crops, **options)
        limits = (scale.low, scale.high)
        dataset = open_signals(self.path, value_range=limits, sample_rate=scale.sample_rate, **options)
        check_sample_rate(dataset, scale.sample_rate)
        return dataset

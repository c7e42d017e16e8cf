"""`open_images`: from a name or a path to a data set, by looking at what is there."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from gmvq.data.arrays import open_npy, open_npz
from gmvq.data.dataset import ImageDataset, check_channels
from gmvq.data.emoji import find_font, open_emoji
from gmvq.data.folder import open_folder, open_image
from gmvq.data.hub import open_hub
from gmvq.data.idx import is_idx, open_fashion_mnist, open_idx
from gmvq.data.parquet import open_parquet
from gmvq.data.photos import open_photos
from gmvq.data.source import SPLITS, Source
from gmvq.errors import check_choice, check_positive

BUILT_IN = ("photos", "fashion_mnist", "emoji")
SIGNALS = ("speech", "synthetic_ecg")


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
) -> ImageDataset:
    """Open one split of a set of images as items of shape (channels, size, size) in [0, 1].

    Args:
        path: "photos" (built in), "fashion_mnist", "emoji", "hf:NAME", or the path of a folder of images, an
            image, .npy, .npz, IDX or Parquet (file or folder), or font. Names come first: a folder called
            photos is "./photos".
        split: "train", "validation" or "test".
        size: height and width of every item, in pixels.
        channels: 3 for RGB, 1 for luminance.
        augment: random crops and flips; None means for the train split only.
        flip: include mirror images in the augmentation.
        column: the table column with the images, where its name is not a usual one (Parquet and hf: only).
        seed: of the augmentation.
        split_fractions: shares of validation and test, where the set does not come divided.

    Raises:
        FileNotFoundError: no such path; the message lists the names there are.
        ValueError: an argument is out of range, or what lies there holds no images.
        MissingExtraError: a package of the extra "data" is not installed.

    Example:
        >>> dataset = open_images("photos", split="test", size=64)
        >>> dataset[0].shape
        torch.Size([3, 64, 64])
    """
    check_choice("split", split, SPLITS)
    check_positive("size", size)
    check_channels(channels)
    fractions = check_fractions(split_fractions)
    source = _source(os.fspath(path), split, size, channels, column, fractions)
    return ImageDataset(
        source,
        size=size,
        channels=channels,
        augment=split == "train" if augment is None else augment,
        flip=flip,
        seed=seed,
    )


def check_fractions(fractions: tuple[float, float]) -> tuple[float, float]:
    """Raise ValueError unless these can be the shares of validation and test."""
    validation, test = fractions
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"split_fractions are the shares of validation and test: not negative, in sum below 1; got {fractions}"
        )
    return validation, test


def _source(
    name: str, split: str, size: int, channels: int, column: str | None, fractions: tuple[float, float]
) -> Source:
    if name == "photos":
        return open_photos(split, channels)
    if name == "fashion_mnist":
        return open_fashion_mnist(split, channels, size)
    if name == "emoji":
        return open_emoji(find_font(), split, channels, size, fractions)
    if name.startswith("hf:"):
        return open_hub(name.removeprefix("hf:"), split, channels, column, fractions)
    path = Path(name).expanduser()
    if name in SIGNALS or path.suffix.lower() in (".wav", ".csv"):
        raise ValueError(_signals(name))
    if not name or not path.exists():
        raise FileNotFoundError(missing(name, path, BUILT_IN, "images"))
    if path.is_dir():
        return _folder(path, split, size, channels, column, fractions)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return open_npy(path, split, channels, fractions)
    if suffix == ".npz":
        return open_npz(path, split, channels, fractions)
    if suffix == ".parquet":
        return open_parquet(path, split, channels, column, fractions)
    if suffix in (".ttf", ".otf", ".ttc"):
        return open_emoji(path, split, channels, size, fractions)
    if is_idx(path):
        return open_idx(path, split, channels, size, fractions)
    return open_image(path, channels)


def _folder(
    path: Path, split: str, size: int, channels: int, column: str | None, fractions: tuple[float, float]
) -> Source:
    if next(path.rglob("*.parquet"), None) is not None:
        return open_parquet(path, split, channels, column, fractions)
    if any(is_idx(child) for child in path.iterdir()):
        return open_idx(path, split, channels, size, fractions)
    try:
        return open_folder(path, split, channels, fractions)
    except ValueError as error:
        if any(file.suffix.lower() in (".wav", ".csv") for file in path.rglob("*")):
            raise ValueError(f"{error}. {_signals(str(path))}") from error
        raise


def _signals(name: str) -> str:
    return (
        f"{name!r} holds signals, and the model takes images; pass --model.spatial_dims 1 and --model.channels of the "
        "signals (in Python: open_signals)"
    )


def missing(name: str, path: Path, names: tuple[str, ...], what: str) -> str:
    """What to say of a path that does not exist: the names and files that may have been meant.

    Args:
        name, path: as given, and as a path.
        names: of the built-in sets.
        what: a file or folder is to hold.
    """
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if path.name and path.parent.is_dir():
        children = [child.name for child in path.parent.iterdir()]
        near += [str(path.parent / child) for child in difflib.get_close_matches(path.name, children, n=3)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    hub = ", hf:NAME" if names is BUILT_IN else ""
    return (
        f"there is no {name!r} (looked in {Path.cwd()}).{hint} "
        f"Names: {', '.join(names)}{hub}; or give the path of a file or folder of {what}."
    )

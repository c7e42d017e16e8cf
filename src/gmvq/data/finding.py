"""What lies at a path, or is meant by a name: the reader of every kind of pictures and signals."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..reading import not_a_file
from .arrays import is_idx, open_arrays, open_fashion_mnist
from .audio import AUDIO_SUFFIXES, open_audio, open_speech
from .decode import image_suffixes
from .emoji import find_font, open_emoji
from .folders import Listing, open_folder, open_image, walk
from .photos import open_photos
from .pictures import Pictures
from .series import open_series, open_synthetic_ecg
from .shards import SHARD_SUFFIXES, open_shards
from .signals import SignalSource
from .splits import Wanted
from .stream import STREAM, open_stream
from .tables import is_saved, open_hub, open_parquet, open_saved

_IMAGES: dict[str, Callable[[Wanted], Pictures]] = {
    "photos": open_photos,
    "fashion_mnist": open_fashion_mnist,
    "emoji": lambda wanted: open_emoji(find_font(), wanted),
    "all_photos": partial(open_photos, name="all_photos"),
}
_SIGNALS: dict[str, Callable[[Wanted], SignalSource]] = {
    "speech": open_speech,
    "synthetic_ecg": open_synthetic_ecg,
}
_FONTS = (".ttf", ".otf", ".ttc")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".parquet", *_FONTS)
_NO_FILES = Listing([], [])
_told_apart: set[str] = set()


def find_pictures(name: str, wanted: Wanted) -> Pictures:
    """The pictures that a name or a path means."""
    _tell_apart(name, _IMAGES)
    if name in _IMAGES:
        return _IMAGES[name](wanted)
    if name.startswith(STREAM):
        inner = name.removeprefix(STREAM)
        return open_stream(
            inner if inner.startswith("hf:") else str(_existing(inner, ("hf:NAME",), "Parquet")), wanted
        )
    if name.startswith("hf:"):
        return open_hub(name.removeprefix("hf:"), wanted)
    if name in _SIGNALS or Path(name).suffix.lower() in (*AUDIO_SUFFIXES, ".csv"):
        raise ValueError(_these_are_signals(name))
    path = _existing(name, (*_IMAGES, "hf:NAME"), "images")
    return _folder_of_pictures(path, wanted) if path.is_dir() else _file_of_pictures(path, wanted)


def _file_of_pictures(path: Path, wanted: Wanted) -> Pictures:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return open_parquet(path, [], wanted)
    if path.name.lower().endswith(SHARD_SUFFIXES):
        return open_shards(path, [], wanted)
    if suffix in _FONTS:
        return open_emoji(path, wanted)
    if suffix in (".npy", ".npz") or is_idx(path.name):
        return open_arrays(path, wanted)
    return open_image(path, wanted)


def _folder_of_pictures(path: Path, wanted: Wanted) -> Pictures:
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


def find_signals(name: str, wanted: Wanted) -> SignalSource:
    """The recordings or series that a name or a path means."""
    _tell_apart(name, _SIGNALS)
    if name in _SIGNALS:
        return _SIGNALS[name](wanted)
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


def _tell_apart(name: str, names: Container[str]) -> None:
    """Warn, once, where the name of a built-in set is that of a file or folder here, too."""
    if name in names and os.path.lexists(name) and (here := os.path.abspath(name)) not in _told_apart:
        _told_apart.add(here)
        warnings.warn(
            f"{name!r} is the built-in set; what lies here by that name is './{name}'", stacklevel=4
        )


def _existing(name: str, names: Iterable[str], what: str) -> Path:
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

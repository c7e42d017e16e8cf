"""The data of the settings, held in memory as tensors: loaded once per process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gmvq.data import TrainingSet, open_images, open_signals
from gmvq.errors import MissingExtraError

from .design import IMAGES, SOUNDS
from .synthetic import drawings, tones

_TRAIN, _TEST = 8192, 2048


@dataclass(frozen=True)
class Data:
    """Examples (n, C, *size) in [0, 1], sounds in [-1, 1]: training, a tenth of it kept for validation, and test."""

    train: Tensor
    validation: Tensor
    test: Tensor


@cache
def load(name: str, size: int) -> Data:
    """The data of a name; the test part is of other photographs, glyphs, recordings or draws than the training part.

    Raises:
        FileNotFoundError: the machine does not have it.
    """
    train, test = _opened(name, size) if name not in _SYNTHETIC else _drawn(name, size)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    kept = len(train) // 10
    return Data(train[order[kept:]], train[order[:kept]], test)


def missing() -> dict[str, str]:
    """The data sets that this machine does not have, with the reason."""
    lacking: dict[str, str] = {}
    for name in (*IMAGES, *SOUNDS):
        if name in _SYNTHETIC:
            continue
        try:
            _open(name, "test", 32 if name in IMAGES else 512)
        except (FileNotFoundError, MissingExtraError) as error:
            lacking[name] = str(error)
    return lacking


_SYNTHETIC = {"drawings": drawings, "tones": tones}


def _drawn(name: str, size: int) -> tuple[Tensor, Tensor]:
    make = _SYNTHETIC[name]
    return torch.from_numpy(make(_TRAIN, size, seed=0)), torch.from_numpy(make(_TEST, size, seed=1))


def _open(name: str, split: str, size: int) -> TrainingSet:
    if name in SOUNDS:
        return open_signals(name, split=split, size=size, channels=1, augment=split == "train")
    return open_images(name, split=split, size=size, channels=IMAGES[name], augment=_cropped(name, split))


def _cropped(name: str, split: str) -> bool:
    return name == "photos" and split == "train"


def _opened(name: str, size: int) -> tuple[Tensor, Tensor]:
    """Training examples: crops at random places of photographs and recordings, else the first of all; test: spread."""
    train, test = _open(name, "train", size), _open(name, "test", size)
    if name in SOUNDS or _cropped(name, "train"):
        wanted = [(i % len(train), i) for i in range(_TRAIN)]
    else:
        wanted = _even(len(train), _TRAIN)
    parts = torch.stack(train.__getitems__(wanted)), torch.stack(test.__getitems__(_even(len(test), _TEST)))
    return tuple(2 * part - 1 for part in parts) if name in SOUNDS else parts  # pyright: ignore[reportReturnType]


def _even(count: int, most: int) -> list[int]:
    """Up to ``most`` item numbers, spread evenly."""
    return [i * count // most for i in range(most)] if count > most else list(range(count))

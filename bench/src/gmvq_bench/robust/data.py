"""The data of the settings, held in memory as tensors, loaded once per process; some are made from numbers alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from gmvq.data import TrainingSet, open_images, open_signals
from gmvq.errors import MissingExtraError

from .design import IMAGES, SOUNDS

_TRAIN, _TEST = 8192, 2048
#: Training examples of these are cut out at random places.
_CROPPED = ("photos", "speech")
#: Drawings are made at twice their size.
_SCALE = 2


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


def _drawn(name: str, size: int) -> tuple[Tensor, Tensor]:
    make = _SYNTHETIC[name]
    return torch.from_numpy(make(_TRAIN, size, seed=0)), torch.from_numpy(make(_TEST, size, seed=1))


def _open(name: str, split: str, size: int) -> TrainingSet:
    augment = split == "train" and name in _CROPPED
    if name in SOUNDS:
        return open_signals(name, split=split, size=size, channels=1, augment=augment)
    return open_images(name, split=split, size=size, channels=IMAGES[name], augment=augment)


def _opened(name: str, size: int) -> tuple[Tensor, Tensor]:
    """Training examples: crops at random places of photographs and recordings, else the first of all; test: spread."""
    train, test = _open(name, "train", size), _open(name, "test", size)
    cropped = [(i % len(train), i) for i in range(_TRAIN)]
    wanted = cropped if name in _CROPPED else _even(len(train), _TRAIN)
    parts = torch.stack(train.__getitems__(wanted)), torch.stack(test.__getitems__(_even(len(test), _TEST)))
    return tuple(2 * part - 1 for part in parts) if name in SOUNDS else parts  # pyright: ignore[reportReturnType]


def _even(count: int, most: int) -> list[int]:
    """Up to ``most`` item numbers, spread evenly."""
    return [i * count // most for i in range(most)] if count > most else list(range(count))


def drawings(count: int, size: int, *, seed: int) -> NDArray[np.float32]:
    """Black strokes, circles, boxes and filled triangles on white: (count, 1, size, size) in [0, 1]."""
    random = np.random.default_rng(seed)
    return np.stack([_drawing(size, random) for _ in range(count)])[:, None]


def _drawing(size: int, random: np.random.Generator) -> NDArray[np.float32]:
    side = size * _SCALE
    image = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 5)):
        ink, width = int(random.integers(0, 160)), int(random.integers(1, 5)) * _SCALE // 2 + 1
        points = [tuple(p) for p in random.uniform(0, side, (4, 2)).tolist()]
        kind = random.integers(4)
        if kind == 0:
            pen.line(points, fill=ink, width=width)
        elif kind == 3:
            pen.polygon(points[:3], fill=ink)
        else:
            box = [f(points[0][axis], points[1][axis]) for f in (min, max) for axis in (0, 1)]
            (pen.ellipse if kind == 1 else pen.rectangle)(box, outline=ink, width=width)
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small).astype(np.float32) / np.float32(255)


def tones(count: int, size: int, *, seed: int) -> NDArray[np.float32]:
    """Sums of one to four gliding, swelling tones with overtones, and a little noise: (count, 1, size) in [-1, 1]."""
    random = np.random.default_rng(seed)
    time = np.arange(size, dtype=np.float64)
    sounds = np.zeros((count, size))
    for voice in range(4):
        start, glide = (
            np.exp(random.uniform(np.log(0.005), np.log(0.12), (count, 1))),
            random.normal(0, 0.3, (count, 1)),
        )
        phase = 2 * np.pi * (start * time * (1 + glide * time / (2 * size)) + random.random((count, 1)))
        middle, spread = random.uniform(0, size, (count, 1)), random.uniform(0.1, 0.6, (count, 1)) * size
        loud = random.uniform(0.05, 0.3, (count, 1)) * (random.random((count, 1)) < 0.8**voice)
        wave = np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)
        sounds += loud * np.exp(-(((time - middle) / spread) ** 2)) * wave
    sounds += random.uniform(0, 0.02, (count, 1)) * random.normal(size=(count, size))
    return np.clip(sounds, -1, 1).astype(np.float32)[:, None]


_SYNTHETIC = {"drawings": drawings, "tones": tones}

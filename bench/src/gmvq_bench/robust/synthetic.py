"""Data made from numbers alone: drawings of lines and shapes, and sounds of a few gliding tones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_SCALE = 2


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

"""More training pictures out of few: quarter turns, and other hues, saturations, contrasts and brightnesses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Largest change of each: an angle of hue, the log of a factor on saturation and on contrast, a share of the range.
HUE, SATURATION, CONTRAST, BRIGHTNESS = 0.15 * math.pi, 0.3, 0.2, 0.1
#: Numbers of chance that a picture takes.
CHANCES = 6
_GREY_AXIS = np.full(3, 1 / math.sqrt(3))


def vary(planes: NDArray[np.uint8], chance: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn squares (B, C, size, size) and change their colours, each by its own ``CHANCES`` uniforms, (B, CHANCES).

    A colour x becomes c (M x - m) + m + b: M turns it around the grey axis by the hue and stretches it away from that
    axis by the saturation, c is the contrast, m the mean of the square, b the brightness.
    """
    turned = planes.copy()
    upside_down, transposed = chance[:, 0] < 0.5, chance[:, 1] < 0.5
    turned[upside_down] = turned[upside_down][..., ::-1, :]
    turned[transposed] = turned[transposed].swapaxes(-1, -2)
    values = turned.astype(np.float32)
    sway = 2 * chance[:, 2:] - 1
    if planes.shape[1] == 3:
        matrices = _colour_matrices(HUE * sway[:, 0], np.exp(SATURATION * sway[:, 1])).astype(np.float32)
        flat = values.reshape(len(values), 3, -1)
        values = (matrices @ flat).reshape(values.shape)
    contrast = np.exp(CONTRAST * sway[:, 2]).astype(np.float32)[:, None, None, None]
    shift = (255 * BRIGHTNESS * sway[:, 3]).astype(np.float32)[:, None, None, None]
    means = values.mean((1, 2, 3), keepdims=True)
    return np.rint(np.clip(contrast * (values - means) + means + shift, 0, 255)).astype(np.uint8)


def _colour_matrices(angle: NDArray[np.float64], saturation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations around the grey axis by Rodrigues' formula, stretched across it: (B, 3, 3)."""
    x, y, z = _GREY_AXIS
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    rotation = np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)
    grey = np.full((3, 3), 1 / 3)
    return grey + saturation[:, None, None] * (rotation - grey)

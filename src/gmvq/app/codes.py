"""Codes of a picture: the most probable ones of a position, other codes in its place, the codebook to click on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..evaluation.pictures import Picture, code_patches, columns_of, grown, sheet, to_picture
from ..models.interface import device_of
from .picture import Encoded, decode_tokens, downsample_of, mixture_of, zoom

if TYPE_CHECKING:
    from ..models import VQAutoencoder

#: Positions on every side of the one that is looked at, in the pictures of its alternatives.
_AROUND = 4


def position_at(model: VQAutoencoder, encoded: Encoded, x: int, y: int) -> tuple[int, int]:
    """Row and column of the position that covers a pixel of a picture on the scale of ``zoom``."""
    step = downsample_of(model) * zoom(encoded)
    rows, columns = encoded.indices.shape
    return min(max(y // step, 0), rows - 1), min(max(x // step, 0), columns - 1)


def check_position(encoded: Encoded, row: int, column: int) -> None:
    """Raise ValueError unless the picture has this position."""
    rows, columns = encoded.indices.shape
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"row {row}, column {column} is outside of the picture: rows are 0 to {rows - 1}, "
            f"columns 0 to {columns - 1}"
        )


@dataclass(frozen=True)
class Alternative:
    """A code at a position.

    Attributes:
        code: its number.
        probability: q(c|x).
        picture: what the surroundings of the position become with it; the position is framed.
    """

    code: int
    probability: float
    picture: Picture


def alternatives(
    model: VQAutoencoder, encoded: Encoded, row: int, column: int, count: int = 4
) -> list[Alternative]:
    """The most probable codes of a position, falling, and what the picture becomes with each.

    Probabilities are q(c|x) over all codes, of the encoder's latent, whatever was painted there.
    """
    check_position(encoded, row, column)
    quantizer = mixture_of(model)
    with torch.no_grad():
        logits = quantizer.posterior_logits(encoded.latents[row, column].to(device_of(model)))
    best = logits.float().cpu().topk(min(count, quantizer.codebook_size))
    at, step = (row, column), downsample_of(model)
    windows = [_window(*pair) for pair in zip(at, encoded.indices.shape, strict=True)]
    found = []
    for value, code in zip(best.values.exp().tolist(), best.indices.tolist(), strict=True):
        changed = painted(encoded, row, column, code)
        pixels = to_picture(decode_tokens(model, changed))[*(_pixels(window, step) for window in windows)]
        factor = max(1, 300 // max(pixels.shape[:2]))
        side = step * factor
        top, left = (side * (place - first) for place, (first, _) in zip(at, windows, strict=True))
        found.append(Alternative(code, value, _framed(grown(pixels, factor), top, left, side)))
    return found


def painted(encoded: Encoded, row: int, column: int, code: int, brush: int = 1) -> Encoded:
    """The picture with ``code`` at a square of positions, ``brush`` wide, but for what lies outside of the picture.

    (row, column) is the middle; of an even side the one above and left of the middle.
    """
    indices = encoded.indices.clone()
    indices[square(encoded, row, column, brush)] = code
    return replace(encoded, indices=indices)


def square(encoded: Encoded, row: int, column: int, side: int) -> Tensor:
    """A square of positions around one, as a mask (h, w)."""
    check_position(encoded, row, column)
    mask = torch.zeros(encoded.indices.shape, dtype=torch.bool)
    top, left = (max(0, at - (side - 1) // 2) for at in (row, column))
    mask[top : row + side // 2 + 1, left : column + side // 2 + 1] = True
    return mask


def tinted(model: VQAutoencoder, picture: Picture, mask: Tensor) -> Picture:
    """A picture with marked positions in another colour, seen on any ground."""
    pixels = grown(mask.numpy(), downsample_of(model))[: picture.shape[0], : picture.shape[1]]
    marked = picture.copy()
    marked[pixels] = (0.45 * picture[pixels] + 0.55 * np.array([255, 0, 160])).round()
    return marked


@dataclass(frozen=True)
class CodeSheet:
    """The codebook as a picture to click on.

    Attributes:
        picture: one square for each code, with white lines between them, by similarity.
        codes: the code of every square, row by row.
        pitch: pixels from one square to the next.
    """

    picture: Picture
    codes: list[int]
    pitch: int

    def code_at(self, x: int, y: int) -> int | None:
        """The code of the square at a pixel; None beside them."""
        columns = columns_of(len(self.codes))
        column, row = x // self.pitch, y // self.pitch
        place = row * columns + column
        return self.codes[place] if 0 <= column < columns and 0 <= place < len(self.codes) else None


def code_sheet(model: VQAutoencoder) -> CodeSheet:
    """What each code decodes to, as a constant patch of 3 x 3 positions; of a large codebook the first 1,024."""
    patches, codes = code_patches(model)
    side = patches[0].shape[0]
    factor = max(1, 520 // ((side + 1) * columns_of(len(codes))))
    picture = grown(sheet(patches, columns_of(len(codes))), factor)
    return CodeSheet(picture, codes, (side + 1) * factor)


def _framed(picture: Picture, top: int, left: int, side: int) -> Picture:
    """A picture with a frame around a square: a dark line and a bright one, seen on any ground."""
    framed = picture.copy()
    for margin, colour in ((0, 255), (1, 0)):
        inner = framed[
            max(0, top - 1 + margin) : top + side + 1 - margin,
            max(0, left - 1 + margin) : left + side + 1 - margin,
        ]
        kept = inner[1:-1, 1:-1].copy()
        inner[:] = colour
        inner[1:-1, 1:-1] = kept
    return framed


def _window(at: int, size: int) -> tuple[int, int]:
    """First and last position of what is shown around a position, as long within the picture as at its middle."""
    first = min(max(at - _AROUND, 0), max(0, size - 2 * _AROUND - 1))
    return first, min(size, first + 2 * _AROUND + 1)


def _pixels(window: tuple[int, int], step: int) -> slice:
    return slice(window[0] * step, window[1] * step)

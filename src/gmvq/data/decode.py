"""From a picture in one of ``FORMATS``, or any uint8 array, to 8-bit grey or RGB, by rules of our own.

``datasets`` decodes with PIL as it comes: every format, EPS through Ghostscript, and without these rules of modes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..reading import MOST_PICTURE, open_input
from .skipping import UnreadableError

if TYPE_CHECKING:
    from PIL.Image import Image


#: Largest picture that is read, width times height (PIL warns above it): a guard against decompression bombs, files of
#: a few kilobytes that unpack to gigabytes.
MAX_PIXELS = 89_478_485
_ROWS = 256
#: The formats that are read, of those that the installed PIL knows: no others, as some run other programs on a file.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
    "WEBP",
)  # fmt: skip
#: The EXIF tag that says how a picture is turned; 5 to 8 exchange height and width.
_ORIENTATION = 0x0112


class UnreadableImageError(UnreadableError):
    """The picture cannot be decoded; the dataset then shows another one in its place."""


def decode(data: Path | bytes, channels: int, reduce: int = 1) -> Image:
    """Decode a file or its bytes, upright, in mode L (channels = 1) or RGB (channels = 3).

    EXIF rotation is applied. Transparency, of a palette too, is laid on white. Grey of 16 bits is divided by 257 and
    rounded, of colour of 16 bits the upper 8 are taken. CMYK is converted by PIL's formula, without a colour profile.
    Of an animation the first frame is taken.

    Args:
        data: the file, or what is in it.
        channels: 1 or 3.
        reduce: the factor by which both sides become smaller, rounded up: 1, 2, 4 or 8. JPEG files are decoded at that
            size, which takes less time; of other formats the mean of each block is taken.
    """
    ops = require("PIL.ImageOps", "data")
    try:
        with _open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            width, height = image.size
            if reduce > 1 and image.format in ("JPEG", "MPO"):
                image.draft(None, (max(1, width // reduce), max(1, height // reduce)))
            image.load()
            # Some formats hold a picture of another size than they declare.
            _check_size(image)
            left = reduce * image.width // max(width, 1)
            ops.exif_transpose(image, in_place=True)
            upright = _to_mode(image, channels)
            return upright.reduce(left) if left > 1 else upright
    # A broken file makes the decoders raise almost anything.
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error


def header_shape(source: Path | BinaryIO) -> tuple[int, int]:
    """Height and width of a picture, a file or an open one, once it stands upright, by its header alone."""
    if isinstance(source, Path) and source.stat().st_size == 0:
        raise UnreadableImageError("the file is empty")
    try:
        with _open(source) as image:
            # For a PNG file without EXIF in front, PIL would decode the pixels to look for it behind them.
            known = image.format != "PNG" or "exif" in image.info
            turned = known and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size
            return (width, height) if turned else (height, width)
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error


@contextmanager
def _open(source: Path | BinaryIO) -> Iterator[Image]:
    """Open a picture of a format and size that is read; its pixels are not decoded yet."""
    pil = require("PIL.Image", "data")
    with (
        warnings.catch_warnings(action="error", category=pil.DecompressionBombWarning),
        open_input(source, MOST_PICTURE) if isinstance(source, Path) else source as file,
        pil.open(file, formats=_formats()) as image,
    ):
        _check_size(image)
        yield image


@cache
def _formats() -> tuple[str, ...]:
    pil = require("PIL.Image", "data")
    pil.init()
    return tuple(name for name in FORMATS if name in pil.OPEN)


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of the files that are read, such as .png."""
    suffixes = require("PIL.Image", "data").registered_extensions()
    return frozenset(suffix for suffix, name in suffixes.items() if name in _formats())


def _check_size(image: Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise UnreadableImageError("the image has no pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(_too_large(f"{width:,} x {height:,} pixels"))


def _too_large(what: str) -> str:
    return f"{what}, above the limit of {MAX_PIXELS:,} against decompression bombs; scale the picture down"


def reason(error: Exception) -> str:
    """Say in one short line why a picture was refused."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image in any format that is read"
    if isinstance(error, UnreadableImageError):
        return str(error)
    if type(error).__name__.startswith("DecompressionBomb"):
        return _too_large("too many pixels")
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _to_mode(image: Image, channels: int) -> Image:
    pil = require("PIL.Image", "data")
    mode = "L" if channels == 1 else "RGB"
    wide = image.mode.startswith("I") or image.mode == "F"
    if not wide and not image.has_transparency_data:
        if image.mode not in ("L", "RGB"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        return image.convert(mode)
    # A few rows at a time, since what lies between takes several times the memory of the picture.
    done = pil.new(mode, image.size)
    for top in range(0, image.height, _ROWS):
        strip = (0, top, image.width, min(top + _ROWS, image.height))
        part = image.crop(strip)
        if wide:
            part = pil.fromarray(_wide_to_8_bit(np.asarray(part)))
        else:
            part = pil.alpha_composite(pil.new("RGBA", part.size, "white"), part.convert("RGBA"))
        done.paste(part.convert(mode), strip)
    return done


def _wide_to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Integers count as 16-bit whatever their width in memory, floats as lying in [0, 1]; others are refused."""
    if not np.issubdtype(values.dtype, np.floating):
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError(
                f"whole numbers from {values.min()} to {values.max()}; a grey image has 8 or 16 bits: 0 to 65,535"
            )
        return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    wide = values.astype(np.float64)
    if not (np.isfinite(wide).all() and wide.min() >= 0 and wide.max() <= 1):
        raise ValueError("a floating-point image must have values in [0, 1]")
    return np.rint(wide * 255).astype(np.uint8)


def convert_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Bring uint8 arrays of shape (..., H, W, 1, 3 or 4) to 1 or 3 channels, by the same rules as PIL."""
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    luminance = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((luminance + 0x8000) >> 16).astype(np.uint8)[..., None]

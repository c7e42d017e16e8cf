"""JPEG and WebP on the images that the tokenizers are measured on.

A file of its own for an image of 32 pixels would be mostly header. All images of the set are therefore one picture,
side by side: the header counts once, and the codec may predict from one image to the next. (Where their sides are no
multiple of 8, or of 16 for the halved colours of JPEG, blocks lie across borders. Padding costs more: 7 % on
Fashion-MNIST.) Rate: bits of the file per pixel of the images; distortion: over the images.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmvq.errors import check_choice
from gmvq.evaluation.metrics import per_image_ssim, psnr

#: Pixels of a side that a WebP picture may have.
_LARGEST = 16383
QUALITIES = {"jpeg": (2, 5, 10, 20, 35, 50, 70, 85), "webp": (0, 5, 15, 30, 50, 70, 85)}


def codec_curve(images: Tensor, codec: str) -> list[dict[str, Any]]:
    """Points (quality, bits_per_pixel, mse, psnr, ssim) of a codec on images (N, C, H, W) in [0, 1], C = 1 or 3.

    ``codec`` is ``"jpeg"`` (Pillow's, optimised Huffman tables, baseline or progressive, whichever is smaller) or
    ``"webp"`` (lossy, method 6).
    """
    check_choice("codec", codec, tuple(QUALITIES))
    mosaic, columns = _mosaic(images)
    channels = images.shape[1]
    pixels = mosaic.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    source = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    ways = (
        [{"optimize": True, "progressive": p} for p in (False, True)] if codec == "jpeg" else [{"method": 6}]
    )
    points = []
    for quality in QUALITIES[codec]:
        file = min((_saved(source, codec, quality, way) for way in ways), key=len)
        decoded = np.asarray(
            Image.open(io.BytesIO(file), formats=[codec]).convert("L" if channels == 1 else "RGB")
        )
        tensor = torch.from_numpy(decoded.copy()).view(*decoded.shape[:2], channels).permute(2, 0, 1)
        result = _cut(tensor.float() / 255, images, columns)
        mse = float((result - images).double().square().mean())
        points.append(
            {
                "quality": quality,
                "bits_per_pixel": 8 * len(file) / (len(images) * images.shape[2] * images.shape[3]),
                "mse": mse,
                "psnr": psnr(mse),
                "ssim": float(per_image_ssim(result, images).mean()),
            }
        )
    return points


def most_images(height: int, width: int) -> int:
    """How many images of a size fit one picture."""
    return (_LARGEST // height) * (_LARGEST // width)


def _saved(source: Any, codec: str, quality: int, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    source.save(file, codec, quality=quality, **options)
    return file.getvalue()


def _mosaic(images: Tensor) -> tuple[Tensor, int]:
    """Images side by side -> (C, H', W') and the number of columns; the last image fills the last row."""
    columns = min(math.ceil(math.sqrt(len(images))), _LARGEST // images.shape[3])
    rows = math.ceil(len(images) / columns)
    if rows * images.shape[2] > _LARGEST:
        raise ValueError(
            f"{len(images)} images of {tuple(images.shape[2:])} do not fit one WebP picture; take fewer"
        )
    last = images[-1:].expand(rows * columns - len(images), -1, -1, -1)
    tiles = torch.cat([images, last]).unflatten(0, (rows, columns))
    return tiles.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2), columns


def _cut(mosaic: Tensor, images: Tensor, columns: int) -> Tensor:
    """The images (N, C, H, W) out of a mosaic like that of ``images``."""
    count, channels, height, width = images.shape
    tiles = mosaic.view(channels, -1, height, columns, width).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return tiles[:count]

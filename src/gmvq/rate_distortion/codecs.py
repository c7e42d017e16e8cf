"""JPEG and WebP on the images that the tokenizers are measured on.

A file of its own for an image of 32 pixels would be mostly header. All images of the set are therefore one picture,
each padded (by its last row and column) to whole blocks of the codec so that none shares a block with another: the
header counts once, and the codec may predict across images. Both are in the codec's favour.

Rate: bits of the file per pixel of the images, padding not counted; distortion: over the images, without the padding.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import check_choice, require
from ..evaluation.metrics import per_image_ssim, psnr

#: Pixels of a block: luminance blocks of 8, and 16 with chrominance at half the resolution.
_BLOCK = 16
QUALITIES = {"jpeg": (2, 5, 10, 20, 35, 50, 70, 85), "webp": (0, 5, 15, 30, 50, 70, 85)}


def codec_curve(images: Tensor, codec: str, qualities: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    """Points (quality, bits_per_pixel, mse, psnr, ssim) of a codec on images (N, C, H, W) in [0, 1], C = 1 or 3.

    Args:
        images: the set.
        codec: ``"jpeg"`` (Pillow's, optimised Huffman tables) or ``"webp"`` (lossy, method 6).
        qualities: 0 to 100; default: ``QUALITIES``.
    """
    check_choice("codec", codec, tuple(QUALITIES))
    picture = require("PIL.Image", "data")
    mosaic, columns = _mosaic(images)
    channels = images.shape[1]
    pixels = mosaic.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    source = picture.fromarray(pixels[..., 0] if channels == 1 else pixels)
    options = {"optimize": True} if codec == "jpeg" else {"method": 6}
    points = []
    for quality in qualities or QUALITIES[codec]:
        file = io.BytesIO()
        source.save(file, codec, quality=quality, **options)
        decoded = np.asarray(picture.open(file).convert("L" if channels == 1 else "RGB"))
        tensor = torch.from_numpy(decoded.copy()).view(*decoded.shape[:2], channels).permute(2, 0, 1)
        result = _cut(tensor.float() / 255, images, columns)
        mse = float((result - images).double().square().mean())
        points.append(
            {
                "quality": quality,
                "bits_per_pixel": 8
                * len(file.getvalue())
                / (len(images) * images.shape[2] * images.shape[3]),
                "mse": mse,
                "psnr": psnr(mse),
                "ssim": float(per_image_ssim(result, images).mean()),
            }
        )
    return points


def _mosaic(images: Tensor) -> tuple[Tensor, int]:
    """Images side by side, each padded to whole blocks -> (C, H', W') and the number of columns."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
    columns = math.ceil(math.sqrt(len(padded)))
    rows = math.ceil(len(padded) / columns)
    if max(rows * padded.shape[2], columns * padded.shape[3]) > 16383:
        raise ValueError(
            f"{len(images)} images of {height} x {width} do not fit one WebP picture; take fewer"
        )
    last = padded[-1:].expand(rows * columns - len(padded), -1, -1, -1)
    tiles = torch.cat([padded, last]).unflatten(0, (rows, columns))
    return tiles.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2), columns


def _cut(mosaic: Tensor, images: Tensor, columns: int) -> Tensor:
    """The images (N, C, H, W) out of a mosaic like that of ``images``."""
    count, channels, height, width = images.shape
    tile = (height + -height % _BLOCK, width + -width % _BLOCK)
    tiles = mosaic.view(channels, -1, tile[0], columns, tile[1]).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return tiles[:count, :, :height, :width]

"""Pictures as uint8 arrays (H, W, 3): images, the decoded codebook on one sheet, scalar maps; and PNG."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import check_positive, require
from ..files import write_bytes
from ..models.interface import device_of, evaluating

Picture = NDArray[np.uint8]
_CODES_PER_BATCH = 256


def to_picture(image: Tensor) -> Picture:
    """Turn an image (C, H, W) in [0, 1] into uint8 (H, W, 3): grey is repeated, a fourth channel dropped."""
    if image.ndim != 3:
        raise ValueError(f"an image must have shape (C, H, W), got {tuple(image.shape)}")
    pixels = image.detach().float().cpu().nan_to_num(0.0).clamp(0.0, 1.0).mul(255).round().to(torch.uint8)
    pixels = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def from_pixels(pixels: Any) -> Tensor:
    """Turn 8-bit pixels, a PIL picture or an array (H, W) or (H, W, C), into (C, H, W) in [0, 1]."""
    values = torch.from_numpy(np.array(pixels))
    values = values[..., None] if values.ndim == 2 else values
    return values.permute(2, 0, 1).float() / 255


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of images (B, C, H, W) until their sides are multiples."""
    height, width = images.shape[-2:]
    return nn.functional.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def grown(picture: Picture, factor: int) -> Picture:
    """Every pixel as a square of ``factor`` pixels."""
    return picture.repeat(factor, 0).repeat(factor, 1)


def decoded_codewords(
    model: nn.Module, grid: int = 3, *, codes: Tensor | None = None, max_codes: int = 1024
) -> Picture:
    """Decode every codeword as a constant patch of latents, and lay the patches out by similarity.

    Patches that look alike lie close together: rows go by the first principal component of the patches'
    colours, places within a row by the second. White lines of one pixel separate them.

    Args:
        model: a tokenizer with ``decode`` of indices (B, h, w) to images (B, C, H, W), and a ``quantizer``.
        grid: latent positions along each side of a patch, all with the same index.
        codes: indices to show, (n,); default: the first ``max_codes``.
        max_codes: the most patches on one sheet.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: ``grid`` is not positive, or the model decodes to something else than images.
    """
    pictures, _ = code_patches(model, grid, codes=codes, max_codes=max_codes)
    return sheet(pictures, columns_of(len(pictures)))


def code_patches(
    model: nn.Module, grid: int = 3, *, codes: Tensor | None = None, max_codes: int = 1024
) -> tuple[list[Picture], list[int]]:
    """What ``decoded_codewords`` puts on its sheet: the patches in their order, and the code of each."""
    check_positive("grid", grid)
    tokenizer: Any = model
    axes = getattr(getattr(tokenizer, "encoder", None), "config", {}).get("spatial_dims", 2)
    if axes != 2:
        raise ValueError(
            f"only images (B, C, H, W) can be shown; the model's networks have spatial_dims={axes}"
        )
    if codes is None:
        codes = torch.arange(tokenizer.quantizer.codebook_size)
    codes = codes.reshape(-1)[:max_codes].to(device_of(model))
    with evaluating(model):
        parts = [
            tokenizer.decode(some[:, None, None].expand(-1, grid, grid).contiguous()).float().cpu()
            for some in codes.split(_CODES_PER_BATCH)
        ]
    patches = torch.cat(parts).nan_to_num(0.0).clamp(0.0, 1.0)
    if patches.ndim != 4:
        raise ValueError(
            f"only images (B, C, H, W) can be shown; the model decodes to {tuple(patches.shape)}"
        )
    order = _by_similarity(patches, columns_of(patches.shape[0]))
    return [to_picture(patches[i]) for i in order], codes[order].tolist()


def columns_of(count: int) -> int:
    """Columns of a sheet of so many pictures: about as many as rows."""
    return math.ceil(math.sqrt(count))


def _by_similarity(patches: Tensor, columns: int) -> list[int]:
    """Sort by the first principal component, then each row of the sheet by the second."""
    features = nn.functional.adaptive_avg_pool2d(patches, 2).flatten(1)
    features = features - features.mean(0)
    _, _, axes = torch.linalg.svd(features, full_matrices=False)
    axes = axes[:2] * torch.where(axes[:2].sum(1, keepdim=True) < 0, -1.0, 1.0)  # brighter comes later
    places = features @ axes.T
    order = places[:, 0].argsort(stable=True)
    if places.shape[1] > 1:
        order = torch.cat([row[places[row, 1].argsort(stable=True)] for row in order.split(columns)])
    return order.tolist()


def sheet(pictures: list[Picture], columns: int, *, gap: int = 1, border: bool = True) -> Picture:
    """Pictures of one size in rows of ``columns``, white lines of ``gap`` pixels between them, or around too."""
    height, width = pictures[0].shape[:2]
    rows, edge = math.ceil(len(pictures) / columns), gap if border else 0
    size = (rows * (height + gap) - gap + 2 * edge, columns * (width + gap) - gap + 2 * edge, 3)
    whole = np.full(size, 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        y, x = edge + number // columns * (height + gap), edge + number % columns * (width + gap)
        whole[y : y + height, x : x + width] = picture
    return whole


def colour_map(values: Tensor, low: float, high: float, *, name: str) -> Picture:
    """Colour a map (h, w) from ``low`` to ``high`` with a colour map of matplotlib: uint8 (h, w, 3)."""
    scale = require("matplotlib", "train").colormaps[name]
    span = max(high - low, 1e-12)
    unit = ((values.detach().double().cpu() - low) / span).nan_to_num(0.0).clamp(0.0, 1.0)
    return (scale(unit.numpy())[..., :3] * 255).round().astype(np.uint8)


def enlarge(values: Tensor, height: int, width: int) -> Tensor:
    """Repeat the entries of a map (h, w) to (height, width), each covering its share of the pixels."""
    return nn.functional.interpolate(values.float()[None, None], size=(height, width), mode="nearest")[0, 0]


def png_bytes(picture: Picture) -> bytes:
    """Encode uint8 (H, W, 3) or (H, W) as PNG."""
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise ValueError(f"a picture must be uint8 (H, W, 3) or (H, W), got {picture.dtype} {picture.shape}")
    buffer = io.BytesIO()
    require("PIL.Image", "data").fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: str | os.PathLike[str], picture: Picture) -> Path:
    """Write uint8 (H, W, 3) or (H, W) as a PNG file, creating its folder; return the path."""
    write_bytes(path, png_bytes(picture))
    return Path(path)

"""Pictures that a prior over tokens draws: whole ones, and marked places of a given one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..evaluation.pictures import Picture, columns_of, grown, sheet, to_picture
from ..prior import Filters, decode
from .picture import Encoded

if TYPE_CHECKING:
    from ..models import VQAutoencoder
    from ..prior import TokenPrior

#: The most pictures drawn at once.
MAX_SAMPLES = 36


def samples(
    model: VQAutoencoder,
    prior: TokenPrior,
    count: int,
    filters: Filters,
    *,
    seed: int = 0,
    label: int | None = None,
) -> Picture:
    """Draw pictures from a prior, on one sheet."""
    if not 1 <= count <= MAX_SAMPLES:
        raise ValueError(f"1 to {MAX_SAMPLES} pictures can be drawn at once, got {count}")
    labels = None if label is None else torch.full((count,), label)
    indices = prior.sample(count, labels=labels, filters=filters, seed=seed)
    pictures = [to_picture(image) for image in decode(model, indices)]
    columns = columns_of(count)
    factor = max(1, 520 // (columns * max(pictures[0].shape[:2])))
    return sheet([grown(picture, factor) for picture in pictures], columns, gap=4, border=False)


def redrawn(prior: TokenPrior, encoded: Encoded, mask: Tensor, filters: Filters, *, seed: int = 0) -> Encoded:
    """Draw the marked tokens of a picture anew, given those around them.

    A prior knows pictures of one size: it sees a window of that size with the marked places in the middle.
    """
    if not bool(mask.any()):
        raise ValueError("no place is marked; click on the picture to mark some")
    window = tuple(
        _window(places.flatten().tolist(), length, size)
        for places, length, size in zip(
            (mask.any(1).nonzero(), mask.any(0).nonzero()), prior.spec.shape, mask.shape, strict=True
        )
    )
    indices = encoded.indices.clone()
    indices[window] = prior.inpaint(indices[window][None], mask[window], filters=filters, seed=seed)[0].cpu()
    return replace(encoded, indices=indices)


def _window(places: list[int], length: int, size: int) -> slice:
    """A stretch of ``length`` of ``size`` positions with marked places in the middle, as far as it lies within."""
    first, last = places[0], places[-1]
    if length > size:
        raise ValueError(
            f"the prior draws {length} positions in a row, and the picture has {size}; take a larger one"
        )
    if last - first >= length:
        raise ValueError(
            f"the prior draws {length} positions in a row, and the marked ones span {last - first + 1}; mark fewer"
        )
    start = min(max(math.floor((first + last + 1 - length) / 2), 0), size - length)
    return slice(start, start + length)

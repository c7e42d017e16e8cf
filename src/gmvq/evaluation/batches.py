"""Batches of images from what a user holds, a dataset, a loader or a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..errors import check_positive, check_unit_range

Images = Dataset[Any] | Iterable[Any] | Tensor
"""A map-style dataset of (C, ...) images, an iterable of batches (B, C, ...), or one tensor (N, C, ...)."""


def image_batches(
    images: Images, *, batch_size: int, device: torch.device, limit: int | None = None
) -> Iterator[Tensor]:
    """Yield batches (B, C, ...) on ``device``, in order, each item once.

    Items that are tuples, such as (image, label), count by their first entry.
    """
    check_positive("batch_size", batch_size)
    if limit is not None:
        check_positive("limit", limit)
    left = limit
    empty = True
    for batch in _loader(images, batch_size):
        values = _first(batch)
        if left is not None:
            values = values[:left]
            left -= values.shape[0]
        if values.shape[0]:
            empty = False
            values = values.to(device)
            check_unit_range(values)
            yield values
        if left is not None and left <= 0:
            break
    if empty:
        raise ValueError("there is no image to evaluate: the dataset or loader is empty (or already used up)")


def count_batches(images: Images, batch_size: int) -> int | None:
    """How many batches ``image_batches`` will yield, or None where that is unknown beforehand."""
    try:
        return len(_loader(images, batch_size))  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def check_codes(indices: Tensor) -> None:
    """Raise ValueError where no position has a code: an untrained mixture passes latents on as they are."""
    if not bool((indices >= 0).any()):
        raise ValueError(
            "the model has no codebook yet, so there is nothing to measure: train it, or call "
            "model.quantizer.init_codebook(latents)"
        )


def known_of(images: Images, name: str, default: Any = None) -> Any:
    """What a dataset, or the dataset behind a loader, says of itself: description, scale, sample_rate."""
    return getattr(images, name, getattr(getattr(images, "dataset", None), name, default))


def description_of(images: Images) -> str:
    """The ``description`` of a dataset, or of the dataset behind a loader; empty where there is none."""
    return str(known_of(images, "description", ""))


def _loader(images: Images, batch_size: int) -> Iterable[Any]:
    own = torch.Generator()  # else every pass would draw from the global generator
    if isinstance(images, Tensor):
        return DataLoader(TensorDataset(images), batch_size=batch_size, generator=own)
    if isinstance(images, DataLoader):
        return images
    if hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images, list | tuple):
        return DataLoader(images, batch_size=batch_size, generator=own)  # pyright: ignore[reportArgumentType]
    if not isinstance(images, Iterable):
        raise TypeError(
            f"expected a dataset, a loader or a tensor of images, got {type(images).__name__}; "
            "gmvq.data.open_images(...) returns a dataset"
        )
    return images


def _first(batch: Any) -> Tensor:
    values = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"batches must be floating-point tensors (B, C, ...) with values in [0, 1], got {kind}; "
            "divide uint8 images by 255"
        )
    return values

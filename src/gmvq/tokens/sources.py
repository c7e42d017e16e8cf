"""The images of a run as numbered rows: every split of any data set, with names, labels and what cannot be read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import DataRecipe, TrainingSet
from ..data.skipping import SkippedItemError
from ..environment import at_most_cores
from ..errors import check_unit_range, one_line
from ..files import unicode_text
from .manifest import Skipped
from .plan import SplitRecord, check_split_name

_SAMPLE = 64


DataSets = DataRecipe | Mapping[str, Dataset[Any]] | Dataset[Any]
"""What can be encoded: a recipe, data sets by split, or one data set."""


@dataclass
class Batch:
    """Consecutive images of one shard: those that could be read (``pixels`` (B, C, ...)), and the others."""

    ids: NDArray[np.int64]
    names: list[str]
    labels: list[int | None]
    pixels: Tensor
    skipped: list[Skipped] = field(default_factory=list)


class Rows:
    """Images of one or several splits, numbered through; ``batch(ids)`` reads some of them.

    Args:
        parts: data sets by the name of the split: of ``open_dataset``, or any map-style data set of images
            (C, H, W) or signals (C, T) in [0, 1], or of pairs (image, label). An item that raises ValueError or OSError
            has no row.

    Attributes:
        skipped: what the data sets left out when they were opened, with the reason.
    """

    def __init__(self, parts: Mapping[str, Dataset[Any]]) -> None:
        self._parts: list[tuple[SplitRecord, Any]] = []
        start = 0
        for name, part in parts.items():
            check_split_name(name)
            if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
                raise TypeError(
                    f"expected a map-style data set for the split {name!r}, got {type(part).__name__}; "
                    "gmvq.data.open_images(...) returns one"
                )
            length = len(part)  # pyright: ignore[reportArgumentType]
            if length:
                text = str(getattr(part, "description", ""))
                self._parts.append((SplitRecord(name, start, length, text), part))
            start += length
        if not self._parts:
            raise ValueError("there is no image to encode: the data set is empty")
        self.skipped = tuple(
            (str(name), str(reason))
            for _, part in self._parts
            for name, reason in getattr(part, "skipped", ())
        )
        self.image_shape = tuple(self.batch(range(1), check=False).pixels.shape[1:])

    @property
    def splits(self) -> tuple[SplitRecord, ...]:
        return tuple(record for record, _ in self._parts)

    def __len__(self) -> int:
        last = self._parts[-1][0]
        return last.first_id + last.images

    def batch(self, ids: range, *, check: bool = True) -> Batch:
        """Read consecutive images of one split."""
        record, part = next(
            (record, part) for record, part in self._parts if ids.start < record.first_id + record.images
        )
        items = range(ids.start - record.first_id, ids.stop - record.first_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unreadable images, which are reported below
            fetched, failed = _fetch(part, items)
        raw = [self._name(record, part, item) for item in items]
        names = [unicode_text(name) for name in raw]
        labels = [self._label(part, item, value) for item, value in zip(items, fetched, strict=True)]
        images = [value[0] if isinstance(value, list | tuple) else value for value in fetched]
        broken = dict(getattr(part, "skipped", ()))
        broken |= {raw[item - items.start]: reason for item, reason in failed.items()}
        if not check and failed:
            raise ValueError(f"the first item, {names[0]}, cannot be read: {failed[items.start]}")
        keep = [place for place, name in enumerate(raw) if name not in broken]
        return Batch(
            ids=np.array([ids[place] for place in keep], dtype=np.int64),
            names=[names[place] for place in keep],
            labels=[labels[place] for place in keep],
            pixels=self._stack([images[place] for place in (keep if check else range(len(images)))], check),
            skipped=[
                Skipped(i, unicode_text(name), unicode_text(broken[name]))
                for i, name in zip(ids, raw, strict=True)
                if name in broken
            ],
        )

    def fingerprint(self) -> str:
        """SHA-256 over every name and label, and over the pixels of 64 images spread evenly over the set."""
        digest = hashlib.sha256()
        for record, part in self._parts:
            digest.update(json.dumps([record.name, record.images, self.image_shape]).encode())
            for item in range(record.images):
                label = part.label(item) if hasattr(part, "label") else None
                name = unicode_text(self._name(record, part, item))
                digest.update(f"{name}\0{label}\n".encode())
        for i in sorted({round(k * (len(self) - 1) / (_SAMPLE - 1)) for k in range(_SAMPLE)}):
            pixels = self.batch(range(i, i + 1)).pixels
            digest.update(np.ascontiguousarray(pixels.numpy()).tobytes())
        return digest.hexdigest()

    def _name(self, record: SplitRecord, part: Any, item: int) -> str:
        return part.item_name(item) if hasattr(part, "item_name") else f"{record.name}:{item}"

    def _label(self, part: Any, item: int, value: object) -> int | None:
        if hasattr(part, "label"):
            return part.label(item)
        if (
            isinstance(value, list | tuple)
            and len(value) > 1
            and isinstance(value[1], int | np.integer | Tensor)
        ):
            return int(value[1])
        return None

    def _stack(self, images: list[Any], check: bool) -> Tensor:
        for image in images:
            if not isinstance(image, Tensor) or not image.is_floating_point():
                kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
                raise TypeError(f"images must be floating-point tensors with values in [0, 1], got {kind}")
            if check and tuple(image.shape) != self.image_shape:
                raise ValueError(
                    f"images of a set must have one shape: the first has {self.image_shape}, another "
                    f"{tuple(image.shape)}; bring them to one size"
                )
        if not images:
            return torch.empty(0, *self.image_shape)
        stacked = torch.stack(images)
        check_unit_range(stacked)
        return stacked


def _fetch(part: Any, items: range) -> tuple[list[Any], dict[int, str]]:
    """Items of a data set, and of those that it cannot read the reason."""
    try:
        return (
            part.__getitems__(list(items)) if hasattr(part, "__getitems__") else [part[i] for i in items]
        ), {}
    except SkippedItemError:
        raise
    except (ValueError, OSError):
        if isinstance(part, TrainingSet):  # it replaces an item by another, and has none
            raise
    fetched, failed = list[Any](), dict[int, str]()
    for item in items:
        try:
            fetched.append(part[item])
        except (ValueError, OSError) as error:
            fetched.append(None)
            failed[item] = one_line(error, 200)
    return fetched, failed


def open_rows(dataset: DataSets) -> Rows:
    """The images of a recipe, a data set or several by split."""
    if isinstance(dataset, DataRecipe):
        return Rows(dataset.open())
    return Rows(dataset if isinstance(dataset, Mapping) else {"all": dataset})


class _Reader(Dataset[Batch]):
    """Batches by their ids, for a loader with worker processes."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __getitem__(self, index: Any) -> Batch:
        return self._rows.batch(index)


def read_batches(rows: Rows, batches: Iterable[range], workers: int) -> Iterator[Batch]:
    """Yield batches in order, read here or by ``workers`` processes ahead, at most one per core."""
    if workers == 0:
        yield from map(rows.batch, batches)
        return
    loader = DataLoader(
        _Reader(rows),
        batch_size=None,
        sampler=batches,  # pyright: ignore[reportArgumentType]
        num_workers=at_most_cores(workers, "processes that decode images"),
        generator=torch.Generator(),  # else the global one would be drawn from
    )
    yield from loader

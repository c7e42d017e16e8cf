"""The images of a run as numbered rows, read and encoded shard by shard: the same bytes in any process."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from ..errors import as_value_error, check_unit_range, one_line
from ..files import unicode_text
from ..models.interface import code_sizes, device_of
from ..quantizers import PyramidGMVQ, RaggedGMVQ
from .manifest import IndexSpec, Manifest, ShardPlan, ShardRecord, Skipped, SplitRecord, check_split_name
from .shard import Columns, check_range, write_shard

#: Images whose pixels count in the fingerprint of a set.
_SAMPLE = 64

DataSets = DataRecipe | Mapping[str, Dataset[Any]] | Dataset[Any]
"""What can be encoded: a recipe, data sets by split, or one data set."""
Encoded = tuple[bytes, ShardRecord]
"""A whole shard: its file, and its record."""


@dataclass
class Batch:
    """Consecutive images of one shard: those that could be read (``pixels`` (B, C, ...)), and the others."""

    ids: NDArray[np.int64]
    names: list[str]
    labels: list[int | None]
    pixels: Tensor
    skipped: list[Skipped] = field(default_factory=list)


class Rows(Dataset[Batch]):
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
        skipped = (one for _, part in self._parts for one in getattr(part, "skipped", ()))
        self.skipped = tuple((str(name), str(reason)) for name, reason in skipped)
        record, part = self._parts[0]
        first, failed = _fetch(part, range(1))
        if failed:
            name = unicode_text(_name(record, part, 0))
            raise ValueError(f"the first item, {name}, cannot be read: {failed[0]}")
        self.image_shape = tuple(_stack(first, None).shape[1:])

    @property
    def splits(self) -> tuple[SplitRecord, ...]:
        return tuple(record for record, _ in self._parts)

    def __len__(self) -> int:
        last = self._parts[-1][0]
        return last.first_id + last.images

    def batch(self, ids: range) -> Batch:
        """Read consecutive images of one split."""
        record, part = next(
            (record, part) for record, part in self._parts if ids.start < record.first_id + record.images
        )
        items = range(ids.start - record.first_id, ids.stop - record.first_id)
        fetched, failed = _fetch(part, items)
        names = [_name(record, part, item) for item in items]
        broken = {**dict(getattr(part, "skipped", ())), **{names[k]: reason for k, reason in failed.items()}}
        keep = [place for place, name in enumerate(names) if name not in broken]
        return Batch(
            ids=np.array([ids[place] for place in keep], dtype=np.int64),
            names=[unicode_text(names[place]) for place in keep],
            labels=[_label(part, items[place], fetched[place]) for place in keep],
            pixels=_stack([fetched[place] for place in keep], self.image_shape),
            skipped=[
                Skipped(i, unicode_text(name), unicode_text(broken[name]))
                for i, name in zip(ids, names, strict=True)
                if name in broken
            ],
        )

    def __getitem__(self, index: Any) -> Batch:
        """For a loader with worker processes."""
        return self.batch(index)

    def fingerprint(self) -> str:
        """SHA-256 over every name and label, and over the pixels of 64 images spread evenly over the set."""
        digest = hashlib.sha256()
        for record, part in self._parts:
            digest.update(json.dumps([record.name, record.images, self.image_shape]).encode())
            for item in range(record.images):
                label = part.label(item) if hasattr(part, "label") else None
                name = unicode_text(_name(record, part, item))
                digest.update(f"{name}\0{label}\n".encode())
        for i in sorted({round(k * (len(self) - 1) / (_SAMPLE - 1)) for k in range(_SAMPLE)}):
            pixels = self.batch(range(i, i + 1)).pixels
            digest.update(np.ascontiguousarray(pixels.numpy()).tobytes())
        return digest.hexdigest()


def _name(record: SplitRecord, part: Any, item: int) -> str:
    return part.item_name(item) if hasattr(part, "item_name") else f"{record.name}:{item}"


def _label(part: Any, item: int, value: object) -> int | None:
    if hasattr(part, "label"):
        return part.label(item)
    known = value[1] if isinstance(value, list | tuple) and len(value) > 1 else None
    return int(known) if isinstance(known, int | np.integer | Tensor) else None


def _stack(items: list[Any], shape: tuple[int, ...] | None) -> Tensor:
    """The images of items, which may be pairs (image, label), as (B, C, ...); the first of a set has no shape yet."""
    images = [value[0] if isinstance(value, list | tuple) else value for value in items]
    for image in images:
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(f"images must be floating-point tensors with values in [0, 1], got {kind}")
        if shape is not None and tuple(image.shape) != shape:
            raise ValueError(
                f"images of a set must have one shape: the first has {shape}, another {tuple(image.shape)}; bring "
                "them to one size"
            )
    stacked = torch.stack(images) if images else torch.empty(0, *(shape or ()))
    check_unit_range(stacked)
    return stacked


def _fetch(part: Any, items: range) -> tuple[list[Any], dict[int, str]]:
    """Items of a data set, and of those that it cannot read, by their place, the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unreadable images, which are reported
        try:
            many = getattr(part, "__getitems__", None)
            return (many(list(items)) if many else [part[item] for item in items]), {}
        except SkippedItemError:
            raise
        except (ValueError, OSError):
            if isinstance(part, TrainingSet):  # it replaces an item by another, and has none
                raise
        fetched, failed = list[Any](), dict[int, str]()
        for place, item in enumerate(items):
            try:
                fetched.append(part[item])
            except (ValueError, OSError) as error:
                fetched.append(None)
                failed[place] = one_line(error, 200)
        return fetched, failed


def open_rows(dataset: DataSets) -> Rows:
    """The images of a recipe, a data set or several by split."""
    if isinstance(dataset, DataRecipe):
        return Rows(dataset.open())
    return Rows(dataset if isinstance(dataset, Mapping) else {"all": dataset})


def _read_batches(rows: Rows, batches: Iterable[range], workers: int) -> Iterator[Batch]:
    """Batches in order, read here or by ``workers`` processes ahead, at most one per core."""
    if workers == 0:
        yield from map(rows.batch, batches)
        return
    loader = DataLoader(
        rows,
        batch_size=None,
        sampler=batches,  # pyright: ignore[reportArgumentType]
        num_workers=at_most_cores(workers, "processes that decode images"),
        generator=torch.Generator(),  # else the global one would be drawn from
    )
    yield from loader


def encode_shards(
    model: Any,
    rows: Rows,
    plans: Iterable[ShardPlan],
    manifest: Manifest,
    *,
    workers: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Encoded]:
    """Encode shards and yield each one's bytes and record."""
    plans, spec, options = list(plans), manifest.indices, manifest.options
    batches = _read_batches(
        rows, (ids for plan in plans for ids in plan.batches(options.batch_size)), workers
    )
    for plan in plans:
        parts: list[tuple[Batch, Tensor, Tensor | None]] = []
        for ids in plan.batches(options.batch_size):
            batch = next(batches)
            found = _encode_batch(model, batch.pixels, log_variance=spec.log_variance, **options.spending)
            batch.pixels = torch.empty(0)  # else a whole shard of them would be held
            parts.append((batch, *found))
            if on_batch is not None:
                on_batch(len(ids))
        skipped = [one for batch, _, _ in parts for one in batch.skipped]
        yield write_shard(plan, _columns(parts, spec), skipped, spec, manifest.fingerprint)


def _encode_batch(
    model: Any, pixels: Tensor, *, log_variance: bool, **spending: Any
) -> tuple[Tensor, Tensor | None]:
    """Indices (B, *shape) and, if asked for, log-variances of images (B, C, ...), on the model's device."""
    if not pixels.shape[0]:
        return torch.empty(0, dtype=torch.int64), None
    pixels = pixels.to(device_of(model))
    if log_variance:
        return model.encode(pixels, return_log_variance=True, **spending)
    return model.encode(pixels, **spending), None


def index_spec(model: Any, shape: tuple[int, ...], *, log_variance: bool, **spending: Any) -> IndexSpec:
    """What a model's indices of images of this shape are, by encoding one."""
    what = f"the model cannot encode images of shape {shape}"
    with as_value_error(what, RuntimeError, advice="choose another --size"):
        indices, _ = _encode_batch(model, torch.zeros(1, *shape), log_variance=log_variance, **spending)
    if indices.is_floating_point() or indices.ndim < 2:
        raise TypeError(
            f"expected the model's indices to be integers (B, ...), got {indices.dtype} {indices.shape}"
        )
    levels = getattr(model.quantizer, "index_shape", ()) or (1,)
    return IndexSpec(
        shape=tuple(indices.shape[1:]),
        codebook_size=model.quantizer.codebook_size,
        codebook_size_per_level=code_sizes(model.quantizer),
        levels=int(np.prod(levels)),
        log_variance=log_variance,
        pyramid=isinstance(model.quantizer, PyramidGMVQ),
        scales=model.quantizer.scales if isinstance(model.quantizer, RaggedGMVQ) else 1,
    )


def _columns(parts: list[tuple[Batch, Tensor, Tensor | None]], spec: IndexSpec) -> Columns:
    """The batches of one shard as its columns; tensors stay on the device until the shard is whole."""
    for batch, codes, _ in parts:
        expected = (len(batch.ids), *spec.shape)
        if len(batch.ids) and tuple(codes.shape) != expected:
            raise ValueError(f"expected indices of shape {expected}, got {tuple(codes.shape)}")
    indices = _flat([codes for _, codes, _ in parts if len(codes)], spec.length)
    check_range(indices, spec, "the model's codes")
    unsure = _flat([part[2] for part in parts if part[2] is not None], spec.length).astype(np.float32)
    return Columns(
        ids=np.concatenate([batch.ids for batch, *_ in parts]),
        names=[name for batch, *_ in parts for name in batch.names],
        labels=[label for batch, *_ in parts for label in batch.labels],
        indices=indices.astype(spec.dtype),
        log_variance=unsure if spec.log_variance else None,
    )


def _flat(parts: list[Tensor], length: int) -> NDArray[Any]:
    return torch.cat(parts).flatten(1).cpu().numpy() if parts else np.empty((0, length))

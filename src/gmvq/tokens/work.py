"""The work itself: shards of a run from images, one after the other, the same bytes in any process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import one_line
from ..models.interface import code_sizes, device_of
from ..quantizers import PyramidGMVQ, RaggedGMVQ
from .manifest import IndexSpec, Manifest, ShardRecord
from .plan import ShardPlan
from .shard import Columns, check_range, write_shard
from .sources import Batch, Rows, read_batches

Encoded = tuple[bytes, ShardRecord]


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
    plans = list(plans)
    wanted = (ids for plan in plans for ids in plan.batches(manifest.options.batch_size))
    batches = read_batches(rows, wanted, workers)
    for plan in plans:
        parts: list[tuple[Batch, Tensor, Tensor | None]] = []
        for ids in plan.batches(manifest.options.batch_size):
            batch = next(batches)
            wanted_too = {"log_variance": manifest.indices.log_variance, **manifest.options.spending}
            found = encode_batch(model, batch.pixels, **wanted_too)
            batch.pixels = torch.empty(0)  # else a whole shard of them would be held
            parts.append((batch, *found))
            if on_batch is not None:
                on_batch(len(ids))
        skipped = [one for batch, _, _ in parts for one in batch.skipped]
        columns = _columns(parts, manifest.indices)
        yield write_shard(plan, columns, skipped, manifest.indices, manifest.fingerprint)


def encode_batch(
    model: Any, pixels: Tensor, *, log_variance: bool, **spending: Any
) -> tuple[Tensor, Tensor | None]:
    """Indices (B, *shape) and, if asked for, log-variances of images (B, C, ...), on the model's device."""
    if not pixels.shape[0]:
        return torch.empty(0, dtype=torch.int64), None
    pixels = pixels.to(device_of(model))
    if log_variance:
        return model.encode(pixels, return_log_variance=True, **spending)
    return model.encode(pixels, **spending), None


def index_spec(model: Any, pixels: Tensor, *, log_variance: bool, **spending: Any) -> IndexSpec:
    """What a model's indices are, by encoding one image (1, C, ...)."""
    try:
        indices, _ = encode_batch(model, pixels, log_variance=log_variance, **spending)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot encode images of shape {tuple(pixels.shape[1:])}: {one_line(error, 200)}; "
            "choose another --size"
        ) from error
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
    read = [part for part in parts if len(part[0].ids)]
    for batch, codes, _ in read:
        if tuple(codes.shape) != (len(batch.ids), *spec.shape):
            raise ValueError(
                f"expected indices of shape {(len(batch.ids), *spec.shape)}, got {tuple(codes.shape)}"
            )
    indices = _flat([codes for _, codes, _ in read], spec.length)
    check_range(indices, spec, "the model's codes")
    unsure = _flat([part[2] for part in read if part[2] is not None], spec.length).astype(np.float32)
    return Columns(
        ids=np.concatenate([part[0].ids for part in parts]),
        names=[name for part in parts for name in part[0].names],
        labels=[label for part in parts for label in part[0].labels],
        indices=indices.astype(spec.dtype),
        log_variance=unsure if spec.log_variance else None,
    )


def _flat(parts: list[Tensor], length: int) -> NDArray[Any]:
    return torch.cat(parts).flatten(1).cpu().numpy() if parts else np.empty((0, length))

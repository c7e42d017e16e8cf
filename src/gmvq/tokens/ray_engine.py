"""``--engine ray``: the shards of a run encoded by the workers of a Ray cluster, one task per shard.

The workers make the bytes of whole shards with the code of the local engine; this process writes them, so the
cluster has to see the images but not the folder of the tokens.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from ..data import DataRecipe
from ..environment import at_most_cores
from ..errors import require
from ..files import real_path
from ..models.interface import device_of
from .manifest import Manifest, ShardPlan, ShardRecord
from .rows import Encoded, encode_shards, open_rows


class ShardWorker:
    """What lives in each worker: the model and the opened data set, which come as references to Ray's store."""

    def __init__(self, model: Any, dataset: Any, manifest: Manifest, threads: int) -> None:
        ray = require("ray", "ray")
        torch.set_num_threads(threads)  # as in the process that began the run: rounding may depend on it
        self._model = ray.get(model).to(manifest.options.device)
        self._rows, self._manifest = open_rows(ray.get(dataset)), manifest

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode the shards planned in a batch of Ray Data."""
        out: dict[str, Any] = {"data": [], "record": []}
        plans = [msgspec.json.decode(text, type=ShardPlan) for text in batch["plan"]]
        for data, record in encode_shards(self._model, self._rows, plans, self._manifest):
            out["data"].append(data)
            out["record"].append(msgspec.json.encode(record))
        return out


def encode_on_ray(
    model: Any,
    dataset: Any,
    plans: list[ShardPlan],
    manifest: Manifest,
    *,
    on_shard: Callable[[int], None],
    workers: int = 0,
    address: str | None = None,
) -> Iterator[Encoded]:
    """Encode shards on a cluster and yield each one's bytes and record, as they come."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    workers = max(1, min(workers or 2, len(plans)))
    if address is None:
        workers = at_most_cores(workers, "processes that encode")
    with _cluster(ray, workers, address):
        data.DataContext.get_current().enable_progress_bars = False
        device = device_of(model).type
        shared = ray.put(model.cpu()), ray.put(_portable(dataset))
        model.to(device)
        tasks = data.from_items(
            [{"plan": msgspec.json.encode(plan)} for plan in plans], override_num_blocks=len(plans)
        ).map_batches(
            ShardWorker,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers),
            num_gpus=1 if device == "cuda" else 0,
            fn_constructor_args=(*shared, manifest, torch.get_num_threads()),
        )
        try:
            for row in tasks.iter_rows():
                record = msgspec.json.decode(row["record"], type=ShardRecord)
                on_shard(record.images)
                yield row["data"], record
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            lines = [line for line in str(cause).splitlines() if line.strip()]
            raise ValueError(
                f"a worker of the Ray cluster failed: {lines[-1] if lines else cause}"
            ) from error


def _portable(dataset: Any) -> Any:
    """A recipe with a path that holds in the folders of the workers; a data set itself is sent whole."""
    if isinstance(dataset, DataRecipe) and Path(dataset.path).expanduser().exists():
        return dataclasses.replace(dataset, path=str(real_path(dataset.path)))
    return dataset


@contextmanager
def _cluster(ray: Any, workers: int, address: str | None) -> Iterator[None]:
    """Join a cluster, or start one on this machine for as long as it is needed."""
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {} if address else {"num_cpus": workers + 1, "include_dashboard": False}
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, **local)
    except ConnectionError as error:
        raise ValueError(
            f"no Ray cluster at {address!r}: {error}; start one, or leave --ray_address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()

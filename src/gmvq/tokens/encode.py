"""``encode_dataset``: a data set to token shards, in steps that a killed run goes on from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..data import DataRecipe
from ..data.skipping import refuse_bad
from ..environment import versions
from ..errors import check_choice, check_size, require
from ..files import real_path
from ..models.interface import device_of
from .folder import locked
from .manifest import Checkpoint, Manifest, Options, Source, digest_of
from .run import EncodeResult, Run
from .sources import DataSets, Rows, open_rows
from .work import Encoded, encode_shards, index_spec

Progress = Callable[[int, int], None]


def encode_dataset(
    model: Any,
    dataset: DataSets,
    out: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    rows_per_shard: int = 8192,
    log_variance: bool = False,
    budget: int | None = None,
    distortion: float | None = None,
    workers: int = 0,
    device: str | torch.device | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    checkpoint_path: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> EncodeResult:
    """Encode every image of a data set and write the tokens to a folder, or go on with a run that was stopped.

    What a shard holds depends on the model, the data and the options alone, so a run that was killed and repeated
    any number of times ends with the same files as one that was not. An image that cannot be read has no row, and is
    listed with the reason in ``skipped.jsonl`` beside the shards.

    Args:
        model: a tokenizer, or where one lies (see ``gmvq.training.load_model``).
        dataset: a recipe, a data set of ``open_images`` or any map-style data set of images, or several by split.
        out: the folder; created if needed.
        batch_size: images at a time. Part of the run: rounding may depend on it.
        rows_per_shard: images per shard; this many rows of tokens are held in memory.
        log_variance: store log s_c^2(x) beside the indices.
        budget, distortion: what a ``RaggedGMVQ`` may spend on an image, as in ``encode``; one of them, or none.
        workers: processes that read images ahead (local), or encode (ray; at least one).
        device: where to compute; default: where the model is.
        engine: "local", or "ray": shards are encoded by the workers of a Ray cluster and written here.
        ray_address: the cluster; default: one on this machine, for this run.
        checkpoint_path: where the model lies, for the manifest; known if ``model`` is a path.
        strict: stop at the first image that cannot be read.
        progress: called with (images done, images of all), after each batch.

    Raises:
        ValueError: the folder holds another run (the message names what differs), another process writes to it, or
            an argument is out of range.
        SkippedItemError: an image cannot be read, and ``strict`` is set.
        OSError: the disk is full; complete shards are kept.
        MissingExtraError: the package pyarrow or, for engine "ray", ray is absent.
    """
    require("pyarrow.parquet", "data")
    check_choice("engine", engine, ("local", "ray"))
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    for name, value in (("batch_size", batch_size), ("rows_per_shard", rows_per_shard)):
        check_size(name, value)
    if isinstance(model, str | os.PathLike):
        from ..training.checkpoint import load_model

        checkpoint_path = os.fspath(model)
        model = load_model(checkpoint_path)
    if device is not None:
        model = model.to(device)
    rows = open_rows(dataset)
    if strict:
        refuse_bad(rows.skipped)
    options = Options(batch_size, rows_per_shard, device_of(model).type, budget, distortion)
    wanted = _manifest(model, checkpoint_path, dataset, rows, options, log_variance)
    with locked(_folder(out)) as folder:
        run = Run(folder, wanted)
        run.check_space()
        missing, done = run.missing(), sum(record.images for record in run.records.values())

        def report(images: int) -> None:
            nonlocal done
            done += images
            if progress is not None:
                progress(done, wanted.images)

        report(0)
        if engine == "ray" and missing:
            from .ray_engine import encode_on_ray

            place = {"workers": workers, "address": ray_address}
            shards = encode_on_ray(model, dataset, missing, run.manifest, on_shard=report, **place)
        else:
            shards = encode_shards(model, rows, missing, run.manifest, workers=workers, on_batch=report)
        return run.finish(_without_skipped(shards) if strict else shards, rows.skipped)


def _without_skipped(shards: Iterator[Encoded]) -> Iterator[Encoded]:
    """Raise SkippedItemError for the first shard that lacks a row."""
    for data, record in shards:
        refuse_bad((one.name, one.reason) for one in record.skipped)
        yield data, record


def _manifest(
    model: Any, path: str | None, dataset: DataSets, rows: Rows, options: Options, log_variance: bool
) -> Manifest:
    """The manifest of a run that has encoded nothing yet."""
    recipe = dataset if isinstance(dataset, DataRecipe) else DataRecipe("")
    place = None if path is None else Path(path).expanduser()
    return Manifest(
        # A path that holds in any folder; the name of a repository on the Hub stays as it is.
        checkpoint=Checkpoint(str(real_path(place)) if place and place.exists() else path, digest_of(model)),
        quantizer=model.quantizer.to_config(),
        indices=index_spec(
            model, torch.zeros(1, *rows.image_shape), log_variance=log_variance, **options.spending
        ),
        image_shape=rows.image_shape,
        data=Source(recipe.path or None, recipe.split, recipe.column, rows.fingerprint(), rows.splits),
        options=options,
        versions=versions("gmvq", "torch", "numpy", "pyarrow"),
    )


def _folder(out: str | os.PathLike[str]) -> Path:
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the tokens go to a folder, but {folder} is a file; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""From tokens back to images: in the batches in which they were encoded, so that every bit is ``reconstruct``'s."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.interface import device_of
from ..training.notes import place_here
from .folder import open_run, read_shard
from .manifest import Manifest, digest_of


@dataclass
class DecodedBatch:
    """Images decoded together.

    Attributes:
        ids: (B,).
        names, labels: of each.
        split: of all.
        images: (B, C, H, W), or (B, C, T) of signals, float, on the CPU, as the decoder puts them out: not clamped.
    """

    ids: NDArray[np.int64]
    names: list[str]
    labels: list[int | None]
    split: str
    images: Tensor


def decode_tokens(
    folder: str | os.PathLike[str],
    model: Any = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    device: str | torch.device | None = None,
) -> Iterator[DecodedBatch]:
    """Decode the tokens of a finished run, in order; memory does not grow with their number.

    On the device and with the versions of the encoding the images equal ``model.reconstruct`` of the batches that
    were encoded, bit for bit: batches are composed as they were then.

    Args:
        folder: where ``encode_dataset`` wrote to.
        model: the tokenizer, or where it lies; default: the checkpoint that the manifest names.
        split: decode this split only.
        limit: stop after this many images.
        device: where to compute; default: where the model is.

    Raises:
        FileNotFoundError: no folder of tokens, or its checkpoint is no longer there.
        ValueError: another model than that of the tokens, a damaged shard or manifest, or no such split.
    """
    path, manifest = open_run(folder)
    check_split(manifest, split)
    model = load_decoder(manifest, model, device)
    return _decode(path, manifest, model, split, limit)


def load_decoder(manifest: Manifest, model: Any = None, device: str | torch.device | None = None) -> Any:
    """Load the model of a run and compare its digest."""
    model = checkpoint_of(manifest) if model is None else model
    where = "the model"
    if isinstance(model, str | os.PathLike):
        from ..training.checkpoint import load_model

        where = os.fspath(model)
        try:
            model = load_model(where)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the checkpoint of the tokens cannot be found ({error}); give it: --checkpoint CKPT"
            ) from error
    digest = digest_of(model)
    if digest != manifest.checkpoint.sha256:
        raise ValueError(
            f"{where} is not what made these tokens: expected sha256 {manifest.checkpoint.sha256[:16]}, got "
            f"{digest[:16]}; it may have been trained on since. Give the checkpoint as it was: --checkpoint CKPT"
        )
    return model if device is None else model.to(device)


def checkpoint_of(manifest: Manifest) -> str:
    """Where the model of a run lies, if it is on this machine."""
    if manifest.checkpoint.path is None:
        raise ValueError("the tokens do not say which checkpoint made them; give it: --checkpoint CKPT")
    return place_here(
        manifest.checkpoint.path, "the manifest of the tokens", "give the model: --checkpoint CKPT"
    )


def check_split(manifest: Manifest, split: str | None) -> None:
    """Raise ValueError unless the run has this split."""
    names = [one.name for one in manifest.splits]
    if split is not None and split not in names:
        raise ValueError(f"there is no split {split!r}; the tokens have: {', '.join(names)}")


def _decode(
    path: Any, manifest: Manifest, model: Any, split: str | None, limit: int | None
) -> Iterator[DecodedBatch]:
    left = manifest.images if limit is None else limit
    device = device_of(model)
    for record in manifest.shards:
        if split not in (None, record.split) or left <= 0:
            continue
        columns = read_shard(path, record, manifest.indices)
        for ids in record.batches(manifest.options.batch_size):
            low, high = np.searchsorted(columns.ids, [ids.start, ids.stop])
            if low == high or left <= 0:
                continue
            values = torch.from_numpy(columns.indices[low:high].astype(np.int64))
            images = model.decode(values.view(-1, *manifest.indices.shape).to(device)).float().cpu()
            count = min(int(high - low), left)  # the whole batch is decoded: rounding depends on its size
            left -= count
            rows = slice(low, low + count)
            yield DecodedBatch(
                columns.ids[rows], columns.names[rows], columns.labels[rows], record.split, images[:count]
            )

"""Tokens as the shortest bytes that a prior allows: range coding by ``constriction``, exactly reversible.

A coder with p(x_t | x_<t) spends -log2 p bits on a token, and a few bytes in all beyond. Decoder and encoder must hold
the same p to the last bit, so both compute it by the same steps: place by place, the rows in the same batches, through
the same KV cache. The bytes are therefore for the device and the versions they were made with.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..evaluation.batches import evaluating
from . import causal
from .prior import TokenPrior
from .saved import digest

MAGIC = b"gmvqrc1\n"
_BATCH = 256


def compress(prior: TokenPrior, indices: Tensor, labels: Tensor | None = None) -> bytes:
    """Encode indices (B, *shape) with the distribution of a causal prior.

    Args:
        prior: of kind "causal".
        indices: int64 in [0, K).
        labels: (B,), known to the decoder as well: they are not stored.

    Returns:
        A header of about 150 bytes (number of images, batch size, the prior's digest, a CRC-32), then the range coder's
        words.

    Raises:
        ValueError: the prior is masked (it has no exact likelihood), or the indices are not of its shape.
        MissingExtraError: constriction is absent.
    """
    _check(prior)
    stream = require("constriction", "prior").stream
    prior.spec.sequence(indices[:1])
    flat, encoder = indices.flatten(1), stream.queue.RangeEncoder()
    family = stream.model.Categorical(perfect=False)
    done = 0

    def choose(place: int, p: np.ndarray) -> np.ndarray:
        symbols = flat[done : done + len(p), place].to(torch.int32).cpu().numpy()
        encoder.encode(np.ascontiguousarray(symbols), family, p)
        return symbols

    for rows in _batches(_label_ids(prior, labels, len(flat)), _BATCH):
        _walk(prior, rows, choose)
        done += len(rows)
    words = encoder.get_compressed().astype("<u4").tobytes()
    about = {"images": len(flat), "batch": _BATCH, "prior": digest(prior), "crc32": zlib.crc32(words)}
    head = json.dumps(about).encode()
    return MAGIC + struct.pack("<I", len(head)) + head + words


def decompress(prior: TokenPrior, data: bytes, labels: Tensor | None = None) -> Tensor:
    """Decode what ``compress`` wrote -> indices (B, *shape), int64, on the CPU.

    Raises:
        ValueError: no such bytes, damaged, or of another prior.
    """
    _check(prior)
    stream = require("constriction", "prior").stream
    head, words = _read(data)
    if head["prior"] != digest(prior):
        raise ValueError(
            f"the bytes were made with the prior {head['prior'][:16]}, and this is {digest(prior)[:16]}"
        )
    decoder = stream.queue.RangeDecoder(words)
    family = stream.model.Categorical(perfect=False)

    def choose(place: int, p: np.ndarray) -> np.ndarray:
        return decoder.decode(family, p)

    label_ids = _label_ids(prior, labels, head["images"])
    parts = [_walk(prior, rows, choose) for rows in _batches(label_ids, head["batch"])]
    return torch.cat(parts) if parts else torch.empty(0, *prior.spec.shape, dtype=torch.long)


def payload_bits(data: bytes) -> int:
    """Bits of the range coder's words, without the header."""
    return 32 * len(_read(data)[1])


def _walk(prior: TokenPrior, label_ids: Tensor, choose: Callable[[int, np.ndarray], np.ndarray]) -> Tensor:
    def on_device(place: int, logits: Tensor) -> Tensor:
        p = logits.softmax(-1).cpu().numpy()
        return torch.from_numpy(choose(place, p).astype(np.int64)).to(logits.device)

    with evaluating(prior):
        ids = causal.walk(prior.network, label_ids, on_device)
    return prior.spec.indices(ids).cpu()


def _label_ids(prior: TokenPrior, labels: Tensor | None, count: int) -> Tensor:
    if labels is not None and labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each image, got {tuple(labels.shape)}")
    return prior.spec.label_ids(labels, count, prior.device)


def _batches(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    return rows.split(size) if len(rows) else ()


def _read(data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    try:
        if not data.startswith(MAGIC):
            raise ValueError("they do not begin as they should")
        start = len(MAGIC) + 4
        (length,) = struct.unpack("<I", data[len(MAGIC) : start])
        head = json.loads(data[start : start + length])
        words = data[start + length :]
        if not {"images", "batch", "prior", "crc32"} <= head.keys():
            raise ValueError("their header lacks an entry")
        if head["crc32"] != zlib.crc32(words):
            raise ValueError("their CRC-32 differs from that in the header")
    except (ValueError, struct.error, AttributeError) as error:
        raise ValueError(f"these bytes are not tokens compressed by gmvq, or are damaged: {error}") from error
    return head, np.frombuffer(words, "<u4").astype(np.uint32)


def _check(prior: TokenPrior) -> None:
    if prior.kind != "causal":
        raise ValueError("a masked prior has no exact likelihood to code with; use one of kind 'causal'")

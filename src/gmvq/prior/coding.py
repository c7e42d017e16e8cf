"""Tokens as the shortest bytes that a prior allows: range coding by ``constriction``, exactly reversible.

A coder with p(x_t | x_<t) spends -log2 p bits on a token, and a few bytes in all beyond. Decoder and encoder must hold
the same p to the last bit, so both compute it by the same steps: place by place, the rows in the same batches, through
the same KV cache, with as many threads (where there are cores for them), in full precision. The bytes are therefore for
the kind of device and the versions that they were made with; a checksum tells where the tokens do not come back.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from torch import Tensor

from ..environment import cores
from ..errors import as_value_error, require
from ..models.interface import evaluating
from ..models.weights import described_digest
from ..reading import check_unpacked
from . import causal, ragged
from .prior import TokenPrior

MAGIC = b"gmvqrc1\n"
_BATCH = 256


class _Header(Struct):
    """What stands before the words, as JSON: how many images there are, how p was computed, and checksums."""

    images: Annotated[int, Meta(ge=0)]
    batch: Annotated[int, Meta(ge=1, le=4096)]
    threads: Annotated[int, Meta(ge=1)]
    prior: str
    crc32: int
    tokens_crc32: int


def compress(prior: TokenPrior, indices: Tensor, labels: Tensor | None = None) -> bytes:
    """Encode indices (B, *shape) with the distribution of a causal prior.

    Args:
        prior: of kind "causal".
        indices: int64 in [0, K).
        labels: (B,), known to the decoder as well: they are not stored.

    Returns:
        A header of about 200 bytes (number of images, how p was computed, the prior's digest, checksums), then the
        range coder's words.

    Raises:
        ValueError: the prior is masked (it has no exact likelihood), or indices or labels are not of its kind.
        MissingExtraError: constriction is absent.
    """
    _check(prior)
    stream = require("constriction", "prior").stream
    flat, encoder = prior.spec.codes(indices).to("cpu", torch.int32), stream.queue.RangeEncoder()
    is_ragged = prior.spec.scales > 1 and len(flat)
    tokens = ragged.sequence(prior.spec, indices)[0].to("cpu", torch.int32) if is_ragged else flat
    family = stream.model.Categorical(perfect=False)
    threads, done = torch.get_num_threads(), 0

    def choose(place: int, p: np.ndarray) -> np.ndarray:
        symbols = np.ascontiguousarray(tokens[done : done + len(p), place].numpy())
        if p.shape[1] > 1:  # a single code needs no bits
            encoder.encode(symbols, family, p)
        return symbols

    for own in _batches(prior.spec.label_ids(labels, len(flat), prior.device), _BATCH):
        _walk(prior, own, choose, threads)
        done += len(own)
    words = encoder.get_compressed().astype("<u4").tobytes()
    header = _Header(len(flat), _BATCH, threads, _digest(prior), zlib.crc32(words), _checksum(flat))
    head = msgspec.json.encode(header)
    return MAGIC + struct.pack("<I", len(head)) + head + words


def decompress(prior: TokenPrior, data: bytes, labels: Tensor | None = None) -> Tensor:
    """Decode what ``compress`` wrote -> indices (B, *shape), int64, on the CPU.

    Raises:
        ValueError: no such bytes, damaged, of another prior, or of more images than ``gmvq.reading`` allows for so few
            bytes; or the tokens do not come back, for the labels, the device or the versions are others.
    """
    _check(prior)
    stream = require("constriction", "prior").stream
    head, words = _read(data)
    if head.prior != _digest(prior):
        raise ValueError(
            f"the bytes were made with the prior {head.prior[:16]}, and this is {_digest(prior)[:16]}"
        )
    decoder = stream.queue.RangeDecoder(words)
    family = stream.model.Categorical(perfect=False)

    def choose(place: int, p: np.ndarray) -> np.ndarray:
        return decoder.decode(family, p) if p.shape[1] > 1 else np.zeros(len(p), np.int32)

    # A byte a token: the header is no more to be believed than that of a container.
    check_unpacked("the token stream", head.images * prior.spec.length, len(data))
    label_ids = prior.spec.label_ids(labels, head.images, prior.device)
    try:
        parts = [_walk(prior, own, choose, head.threads) for own in _batches(label_ids, head.batch)]
    except AssertionError as error:  # constriction: no symbol has such a code
        raise _other(error) from error
    indices = torch.cat(parts) if parts else torch.empty(0, *prior.spec.shape, dtype=torch.long)
    if _checksum(prior.spec.codes(indices).to(torch.int32)) != head.tokens_crc32:
        raise _other("the checksum of the tokens differs")
    return indices


def payload_bits(data: bytes) -> int:
    """Bits of the range coder's words, without the header."""
    return 32 * len(_read(data)[1])


def _walk(
    prior: TokenPrior, label_ids: Tensor, choose: Callable[[int, np.ndarray], np.ndarray], threads: int
) -> Tensor:
    def on_device(place: int, logits: Tensor) -> Tensor:
        p = logits.softmax(-1).cpu().numpy()
        return torch.from_numpy(choose(place, p).astype(np.int64)).to(logits.device)

    with evaluating(prior), _threads(threads), torch.autocast(label_ids.device.type, enabled=False):
        ids = causal.walk(prior.network, label_ids, on_device)
    return prior.spec.indices(ids).cpu()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sums are taken in another order by another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(label_ids: Tensor, size: int) -> tuple[Tensor, ...]:
    return label_ids.split(size) if len(label_ids) else ()


def _digest(prior: TokenPrior) -> str:
    """SHA-256 over the configuration and every tensor."""
    return described_digest(prior.to_config(), prior.state_dict())


def _checksum(indices: Tensor) -> int:
    return zlib.crc32(indices.contiguous().numpy().tobytes())


def _other(reason: object) -> ValueError:
    return ValueError(
        f"the tokens do not come back ({reason}): the labels, the kind of device or the versions are other ones than "
        "when they were compressed"
    )


def _read(data: bytes) -> tuple[_Header, np.ndarray]:
    what = "these bytes are not tokens compressed by gmvq, or are damaged"
    with as_value_error(what, ValueError, struct.error, msgspec.MsgspecError, RecursionError):
        if not data.startswith(MAGIC):
            raise ValueError("they do not begin as they should")
        start = len(MAGIC) + 4
        (length,) = struct.unpack("<I", data[len(MAGIC) : start])
        head = msgspec.json.decode(data[start : start + length], type=_Header)
        words = data[start + length :]
        if head.crc32 != zlib.crc32(words):
            raise ValueError("their CRC-32 differs from that in the header")
    return head, np.frombuffer(words, "<u4").astype(np.uint32)


def _check(prior: TokenPrior) -> None:
    if prior.kind != "causal":
        raise ValueError("a masked prior has no exact likelihood to code with; use one of kind 'causal'")

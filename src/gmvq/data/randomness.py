"""Random numbers as pure functions of counters, so that draw number n is the same in every process and run.

No state is kept and no global generator is read: the n-th draw of a resumed run equals the n-th draw of an
uninterrupted one, whatever the number of workers. The mixer is splitmix64 (Steele, Lea and Flood 2014), spelt
out here rather than taken from a generator class because no library promises its stream across versions.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
#: Blocks of rows that are drawn from at a time, where rows lie in blocks.
WINDOW = 8


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _key(*numbers: int) -> NDArray[np.uint64]:
    """One well-mixed 64-bit word, of shape (1,), from a few integers of any size."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def uniforms(seed: int, draws: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return ``count`` uniform numbers in [0, 1) for each draw, of shape (len(draws), count)."""
    state = _mix(draws.astype(np.uint64) * np.uint64(_GOLDEN) + _key(seed))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return (_mix(state[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """Return the order in which ``epoch`` visits ``length`` items: a permutation of range(length)."""
    counters = np.arange(length, dtype=np.uint64) * np.uint64(_GOLDEN)
    return np.argsort(_mix(counters + _key(seed, epoch)), kind="stable")


def windows(seed: int, epoch: int, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """As ``permutation``, of items that lie in ``blocks``: in a new order of these, ``WINDOW`` at a time, mixed."""
    found, place = np.unique(blocks, return_inverse=True)
    turn = np.empty(len(found), dtype=np.int64)
    turn[permutation(seed, epoch, len(found))] = np.arange(len(found))
    mixed = permutation(seed, epoch, len(blocks))
    return mixed[np.argsort((turn // WINDOW)[place[mixed]], kind="stable")]


def fraction_of(text: str) -> float:
    """Return a fixed number in [0, 1) for a name: the same on every machine, today and tomorrow."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53

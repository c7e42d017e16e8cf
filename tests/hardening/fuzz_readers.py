"""Files for every reader of data: whole ones damaged, and made-up ones whose headers and numbers contradict each other.

A case is a file by its name and bytes, so that what once failed can be kept in tests/data/fuzz and be read again.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_damage import BYTES
from hypothesis import strategies as st

from gmvq.data import open_images, open_signals


@dataclass(frozen=True)
class Sample:
    """A file: its name, which says how it is opened, and its bytes."""

    name: str
    data: bytes

    def __repr__(self) -> str:
        return f"Sample({self.name!r}, {len(self.data)} bytes: {self.data[:60]!r})"


def run_file(case: Sample, folder: Path) -> None:
    """Open a file as images and as signals where its suffix may mean either, and read the first items."""
    file = folder / case.name
    file.write_bytes(case.data)
    series = case.name.endswith((".wav", ".flac", ".ogg", ".csv"))
    both = case.name.endswith((".npy", ".npz"))
    if not series:
        try:
            dataset = open_images(file, size=8, split_fractions=(0, 0))
        except ValueError:
            if not both:
                raise
        else:
            _use(dataset)
    if series or both:
        _use(open_signals(file, size=8, split_fractions=(0, 0)))


def _use(dataset: Any) -> None:
    for item in range(min(len(dataset), 2)):
        value = dataset[item]
        assert torch.isfinite(value).all(), "accepted with values that are not finite"


def samples(
    *names: str, whole: Callable[[str], list[bytes]], made: st.SearchStrategy[Sample]
) -> st.SearchStrategy[Sample]:
    """Whole files of each name, most of them damaged, and made-up ones."""
    damaged = st.sampled_from(names).flatmap(
        lambda name: st.builds(
            lambda data, damages: Sample(name, _all(damages, data)),
            st.deferred(lambda: st.sampled_from(whole(name))),
            st.lists(BYTES, min_size=0, max_size=3),
        )
    )
    return st.one_of(damaged, damaged, made)


def _all(damages: list[Any], data: bytes) -> bytes:
    for damage in damages:
        data = damage(data)
    return data


# Arrays

_SIDES = st.one_of(st.integers(-2, 12), st.sampled_from([0, 1, 3, 2**31, 2**40, 2**63 - 1, 10**30]))
_KINDS = st.sampled_from(
    ["|u1", "<f4", ">f8", "<i8", "<f2", "|O", "<c8", "|b1", "<U4", "|V0", "[('a', '<f4')]", "x", "<f99"]
)


def _npy(descr: str, fortran: Any, shape: Any, body: int, version: int) -> bytes:
    text = repr(
        {"descr": eval(descr) if descr[:1] == "[" else descr, "fortran_order": fortran, "shape": shape}
    )
    header = (text + "\n").encode("latin-1", "replace")
    size = struct.pack("<H" if version == 1 else "<I", len(header) & 0xFFFF)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + np.random.default_rng(0).bytes(body)


NPY = st.builds(
    _npy,
    _KINDS,
    st.sampled_from([True, False, None, "x"]),
    st.one_of(
        st.lists(_SIDES, max_size=4).map(tuple), st.sampled_from([None, "x", [1], (1.5,), (True,), ((1,),)])
    ),
    st.sampled_from([0, 1, 64, 768, 5000]),
    st.sampled_from([1, 1, 1, 2, 3, 9]),
)
_KEYS = ("images", "x_train", "x_test", "y_train", "labels", "series", "other", "../x", "")


def _npz(members: list[tuple[str, bytes]], method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members:
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


NPZ = st.builds(
    _npz,
    st.lists(st.tuples(st.sampled_from(_KEYS), NPY), max_size=3, unique_by=lambda member: member[0]),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]),
)


def _idx(kind: int, sides: list[int], body: int, packed: bool) -> Sample:
    data = bytes([0, 0, kind, len(sides)]) + b"".join(struct.pack(">I", side) for side in sides) + bytes(body)
    return Sample("train-images-idx3-ubyte" + ".gz" * packed, gzip.compress(data) if packed else data)


IDX = st.builds(
    _idx,
    st.sampled_from([8, 8, 8, 9, 13, 0]),
    st.lists(st.sampled_from([0, 1, 2, 8, 28, 2**16, 2**32 - 1]), max_size=5),
    st.sampled_from([0, 1, 64, 128, 784]),
    st.booleans(),
)


@cache
def _arrays(name: str) -> list[bytes]:
    random = np.random.default_rng(0)
    values = [
        random.integers(0, 256, (6, 9, 9, 3), dtype=np.uint8),
        random.random((5, 40)),
        random.random((7, 2, 30), np.float32),
    ]
    found = []
    for value in values:
        stream = io.BytesIO()
        if name.endswith(".npy"):
            np.save(stream, value)
        elif name.endswith(".npz"):
            np.savez_compressed(stream, x_train=value, x_test=value, y_train=np.arange(len(value)))
        else:
            stream.write(_idx(8, [4, 8, 8], 256, name.endswith(".gz")).data)
        found.append(stream.getvalue())
    return found


ARRAYS = samples(
    *("a.npy", "a.npz", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    whole=_arrays,
    made=st.one_of(
        NPY.map(lambda data: Sample("a.npy", data)), NPZ.map(lambda data: Sample("a.npz", data)), IDX
    ),
)

# Tables of numbers

_CELLS = st.one_of(
    st.floats().map(str),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        ["", "nan", "inf", "1,5", '"a', '"1;2"', "2024-01-01", "#", "0x10", "1e999", "\x00", "é", "a" * 300]
    ),
)
CSV = st.builds(
    lambda rows, delimiter, end, start: Sample(
        "a.csv", (start + end.join(delimiter.join(row) for row in rows)).encode()
    ),
    st.lists(st.lists(_CELLS, min_size=1, max_size=4), max_size=30),
    st.sampled_from([",", ";", "\t", " "]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\ufeff", "# comment\n", "time,value\n", "\n\n"]),
)


def _tables(_: str) -> list[bytes]:
    rows = "\n".join(f"2024-01-{i % 28 + 1:02d},{i * 0.5}" for i in range(60))
    return [
        f"date,a\n{rows}\n".encode(),
        rows.replace(",", ";").encode(),
        "\n".join(map(str, range(60))).encode(),
    ]


# Sound


def _wav(rate: int, channels: int, bits: int, announced: int, body: int, chunk: bytes) -> Sample:
    block = channels * bits // 8 & 0xFFFF
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    data = chunk + struct.pack("<4sI", b"data", announced) + bytes(body)
    return Sample("a.wav", b"RIFF" + struct.pack("<I", 4 + len(head) + len(data)) + b"WAVE" + head + data)


WAV = st.builds(
    _wav,
    st.sampled_from([0, 1, 8000, 2**32 - 1]),
    st.sampled_from([0, 1, 2, 300, 65535]),
    st.sampled_from([0, 1, 8, 16, 24, 32, 64, 65535]),
    st.sampled_from([0, 1, 400, 401, 2**31, 2**32 - 1]),
    st.sampled_from([0, 1, 400, 5000]),
    st.sampled_from([b"", b"LIST\x04\0\0\0abcd", b"LIST\xff\xff\xff\xffabcd", b"fact\0\0\0\0"]),
)


@cache
def _sounds(name: str) -> list[bytes]:
    import soundfile

    found = []
    for channels in (1, 2):
        values = np.random.default_rng(0).uniform(-0.5, 0.5, (400, channels))
        kinds = {".wav": ("PCM_16", "PCM_24", "FLOAT", "ULAW"), ".flac": ("PCM_16",), ".ogg": ("VORBIS",)}
        for subtype in kinds[Path(name).suffix]:
            stream = io.BytesIO()
            soundfile.write(stream, values, 8000, format=Path(name).suffix[1:].upper(), subtype=subtype)
            found.append(stream.getvalue())
    return found


SOUNDS = samples("a.wav", "a.flac", "a.ogg", whole=_sounds, made=WAV)
TABLES = samples("a.csv", whole=_tables, made=CSV)

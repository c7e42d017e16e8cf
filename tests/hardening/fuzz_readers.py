"""Files for every reader of data: whole ones damaged, and made-up ones whose headers and numbers contradict each other.

A case is a file by its name and bytes, so that what once failed can be kept in tests/data/fuzz and be read again.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_damage import BYTES, ODD_VALUES, entries
from hypothesis import strategies as st
from PIL import Image

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


# Fonts


@cache
def _fonts(_: str) -> list[bytes]:
    """A dozen glyphs of the system's colour font, where it is installed."""
    from fontTools import subset

    from gmvq.data.emoji import find_font

    try:
        font = subset.load_font(str(find_font()), subset.Options(glyph_names=True))
    except FileNotFoundError:
        return [_sfnt([("CBDT", b"\0\3\0\0"), ("CBLC", b"\0\3\0\0\0\0\0\0")])]
    chosen = subset.Subsetter(subset.Options(glyph_names=True))
    chosen.populate(unicodes=[0x1F600, 0x1F44D, 0x1F3FB, 0x1F3FC, 0x1F468, 0x1F469, 0x200D, 0x1F33E])
    chosen.subset(font)
    stream = io.BytesIO()
    font.save(stream)
    return [stream.getvalue()]


def _sfnt(tables: list[tuple[str, bytes]], magic: bytes = b"\0\1\0\0", offset: int = 0) -> bytes:
    at, parts = 12 + 16 * len(tables) + offset, b""
    for tag, data in tables:
        parts += struct.pack(">4sIII", tag.encode(), 0, at & 0xFFFFFFFF, len(data))
        at += len(data)
    return magic + struct.pack(">HHHH", len(tables), 0, 0, 0) + parts + b"".join(data for _, data in tables)


_WORDS = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 12, 255, 65535]), max_size=60).map(
    lambda words: b"".join(struct.pack(">H", word) for word in words)
)
FONT = st.builds(
    lambda tables, magic, offset: Sample("a.ttf", _sfnt(tables, magic, offset)),
    st.lists(
        st.tuples(
            st.sampled_from(["CBDT", "CBLC", "cmap", "GSUB", "post", "maxp", "head", "CFF ", "loca"]), _WORDS
        ),
        max_size=8,
        unique_by=lambda table: table[0],
    ),
    st.sampled_from([b"\0\1\0\0", b"OTTO", b"ttcf", b"wOFF", b"true"]),
    st.sampled_from([0, 0, 1, -16, 2**31]),
)

# Parquet


def _png(side: int, value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def _table(cells: list[Any], labels: Any, column: str, codec: str, page: int) -> Sample:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    columns: dict[str, Any] = {column: cells}
    if labels is not None:
        columns["label"] = [labels] * len(cells)
    try:
        pq.write_table(pa.table(columns), stream, compression=codec, data_page_size=page, row_group_size=4)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return Sample("a.parquet", b"PAR1")
    return Sample("a.parquet", stream.getvalue())


_CELL = st.one_of(
    st.builds(_png, st.sampled_from([1, 9]), st.integers(0, 255)),
    st.binary(max_size=20),
    st.none(),
    st.builds(
        lambda data: {"bytes": data, "path": "/etc/passwd"}, st.one_of(st.none(), st.binary(max_size=8))
    ),
    st.integers(),
    st.text(max_size=4),
)
TABLE = st.builds(
    _table,
    st.one_of(st.lists(_CELL, max_size=6), st.integers(1, 4).map(lambda n: [_png(9, 7 * n)] * (5 * n))),
    ODD_VALUES,
    st.sampled_from(["image", "image", "img", "x"]),
    st.sampled_from(["none", "snappy", "zstd", "gzip"]),
    st.sampled_from([1, 64, 1 << 20]),
)


@cache
def _parquets(_: str) -> list[bytes]:
    return [
        _table([_png(9, i) for i in range(9)], 1, "image", codec, 64).data
        for codec in ("none", "zstd", "snappy")
    ]


# Shards


def _tar(members: list[tuple[str, bytes, int, bytes]], end: int) -> Sample:
    """Members by name, content, the size that is announced, and type."""
    parts: list[bytes] = []
    for name, content, size, kind in members:
        header = tarfile.TarInfo(name)
        header.size, header.type = len(content) if size == 0 else size, kind
        parts += [header.tobuf(tarfile.GNU_FORMAT), content + bytes(-len(content) % 512)]
    return Sample("a.tar", b"".join(parts) + bytes(end))


_NOTES = [
    b"21 path=x/y/long.png\n",
    b"16 size=1000000\n",
    b"22 GNU.sparse.major=1\n",
    b"9 size=-1\n",
    b"0 a=b\n",
]
TAR = st.builds(
    _tar,
    st.lists(
        st.tuples(
            st.sampled_from(
                ["a.png", "a.cls", "b.png", "../x.png", "/etc/x.jpg", ".", "", "a", "n" * 300 + ".png"]
            ),
            st.one_of(
                st.builds(_png, st.sampled_from([1, 9]), st.integers(0, 255)),
                st.binary(max_size=20),
                st.sampled_from(_NOTES),
            ),
            st.sampled_from([0, 0, 0, 0, 1, -1, 513, 1 << 20, 8**11, 1 << 70]),
            st.sampled_from([*[tarfile.REGTYPE] * 6, *b"\0012345678KLSVxXgMN"]).map(
                lambda kind: kind if isinstance(kind, bytes) else bytes([kind])
            ),
        ),
        max_size=6,
    ),
    st.sampled_from([0, 1, 512, 1024, 10240]),
)


@cache
def _tars(_: str) -> list[bytes]:
    members = [
        (f"{i}.{suffix}", content, 0, tarfile.REGTYPE)
        for i in range(4)
        for suffix, content in (("png", _png(9, i)), ("cls", b"%d" % i))
    ]
    return [_tar(members, 1024).data, _tar([("long", b"n/" * 90, 0, b"L"), *members], 1024).data]


# Suites, sidecars, indices


@cache
def _suite() -> dict[str, Any]:
    import yaml

    from gmvq_bench.comparison import suite

    return yaml.safe_load((Path(suite.__file__).parent / "suites" / "quick.yaml").read_text())


def run_suite(damage: Any, folder: Path) -> None:
    """Read a suite of comparisons, and list its runs."""
    from gmvq_bench.comparison.suite import load_suite

    data = (
        damage(json.dumps(_suite()).encode())
        if hasattr(damage, "place")
        else json.dumps(damage(_suite())).encode()
    )
    (folder / "suite.yaml").write_bytes(data)
    suite = load_suite(str(folder / "suite.yaml"))
    for setting, method in suite.pairs()[:3]:
        suite.grid_of(setting, method)


SUITES = st.one_of(BYTES, st.deferred(lambda: entries(_suite())))

_SIDECAR = {
    "format_version": 1,
    "format": "onnx",
    "signature": {
        "channels": 1,
        "downsample": 4,
        "spatial_dims": 2,
        "codebook_size": 8,
        "dim": 3,
        "index_shape": [1],
    },
    "digests": {"encoder.onnx": "sha256:0", "decoder.onnx": "sha256:0"},
}


def run_sidecar(damage: Any, folder: Path) -> None:
    """Read the notes of an export, whose files have another digest: it is never opened."""
    from gmvq.export.files import load_exported

    text = json.dumps(_SIDECAR).encode()
    (folder / "export.json").write_bytes(
        damage(text) if hasattr(damage, "place") else json.dumps(damage(_SIDECAR)).encode()
    )
    for name in ("encoder.onnx", "decoder.onnx"):
        (folder / name).write_bytes(b"x")
    load_exported(folder)
    raise AssertionError("an export was accepted whose files are not those that it names")


SIDECARS = st.one_of(BYTES, st.deferred(lambda: entries(_SIDECAR)))


def run_indices(case: tuple[list[int], Any, int], _: Path) -> None:
    """Decode indices of any shape, type and value."""
    from fuzz_inputs import small_model

    shape, dtype, value = case
    indices = torch.full(shape, 1, dtype=dtype)
    if indices.numel() and (dtype.is_floating_point or abs(value) < 2 ** (8 * indices.element_size() - 1)):
        indices.view(-1)[0] = value
    decoded = small_model().decode(indices)
    assert torch.isfinite(decoded).all()
    assert decoded.shape[0] == shape[0]


INDICES = st.tuples(
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.float32]),
    st.sampled_from([-(2**40), -2, -1, 0, 7, 8, 2**31, 2**62]),
)

SOUNDS = samples("a.wav", "a.flac", "a.ogg", whole=_sounds, made=WAV)
TABLES = samples("a.csv", whole=_tables, made=CSV)
FONTS = samples("a.ttf", whole=_fonts, made=FONT)
PARQUET = samples("a.parquet", whole=_parquets, made=TABLE)
SHARDS = samples("a.tar", whole=_tars, made=TAR)

"""Files of formats with tables and members for the readers of data: fonts, Parquet and shards of WebDataset."""

from __future__ import annotations

import io
import struct
import tarfile
from functools import cache
from typing import Any

from fuzz_damage import ODD_VALUES
from fuzz_readers import Sample, samples
from hypothesis import strategies as st
from PIL import Image

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


FONTS = samples("a.ttf", whole=_fonts, made=FONT)
PARQUET = samples("a.parquet", whole=_parquets, made=TABLE)
SHARDS = samples("a.tar", whole=_tars, made=TAR)

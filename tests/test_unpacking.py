"""Containers: nothing unpacks to more memory than its size deserves, and no header is believed before it is checked."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gmvq.data import open_images, open_signals
from gmvq.data.emoji import check_font
from gmvq.data.limits import check_arrow
from gmvq.models.weights import read_weights
from gmvq.reading import (
    allowance,
)

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")


def bomb_npz(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (70_000, 64, 64)}
        )
        for _ in range(70):
            member.write(bytes(64 * 64 * 1000))


def bomb_idx(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        file.write(b"\0\0\x08\x03" + struct.pack(">III", 70_000, 64, 64))
        for _ in range(70):
            file.write(bytes(64 * 64 * 1000))


def bomb_parquet(path: Path) -> None:
    """One picture in a dictionary, standing for every row."""
    noise = np.random.default_rng(0).bytes(100_000)
    pq.write_table(
        pa.table(
            {"image": pa.array([noise]).dictionary_encode().take(pa.array([0] * 4000)).cast(pa.binary())}
        ),
        path,
    )


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.npz", bomb_npz), ("train-images-idx3-ubyte.gz", bomb_idx), ("a.parquet", bomb_parquet)],
)
def test_small_files_that_unpack_to_hundreds_of_megabytes(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 1_200_000
    with pytest.raises(ValueError, match="decompression bombs"):
        open_images(tmp_path / name)


def test_an_archive_whose_members_share_their_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), more=np.zeros((4, 8, 8), np.uint8))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    start, entry = data.index(b"PK\1\2"), data.index(b"PK\1\2")
    while entry != -1:
        data[entry + 20 : entry + 24] = struct.pack("<I", len(data))
        entry = data.find(b"PK\1\2", entry + 1)
    assert start > 0
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="lie over each other"):
        open_images(tmp_path / "a.npz")


def test_headers_that_promise_more_than_the_file_holds(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64)}
    )
    (tmp_path / "a.npy").write_bytes(header.getvalue() + b"\0" * 64)
    for use in (open_images, open_signals):
        with pytest.raises(ValueError, match=r"cannot read .*a.npy: mmap length is greater than file size"):
            use(tmp_path / "a.npy")
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 90 << 20) + b"{}")
    with pytest.raises(ValueError, match=r"not a whole safetensors file.*header length"):
        read_weights(tmp_path / "m.safetensors")
    entry = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    text = json.dumps(entry).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 12)
    with pytest.raises(ValueError, match=r"not a whole safetensors file.*incomplete metadata"):
        read_weights(tmp_path / "m.safetensors")


def test_a_token_shard_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    from gmvq.tokens.manifest import IndexSpec
    from gmvq.tokens.shard import read_columns

    sink = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(np.zeros(40_000_000, np.int64))}), sink, compression="zstd")
    assert len(sink.getvalue()) < 300_000
    with pytest.raises(ValueError, match="decompression bombs"):
        read_columns(sink.getvalue(), IndexSpec((4,), 16, 1, False), "train", "x.parquet")


@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
@pytest.mark.parametrize("dictionary", [False, True])
def test_what_datasets_saved_is_not_compressed(
    tmp_path: Path, compression: str | None, dictionary: bool
) -> None:
    values = pa.array([bytes(1_000_000)] * 5, pa.binary())
    table = pa.table({"image": values.dictionary_encode() if dictionary else values})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as file,
    ):
        file.write_table(table)
    if compression is None:
        check_arrow(tmp_path / "a.arrow")
        return
    assert (tmp_path / "a.arrow").stat().st_size < 30_000
    with pytest.raises(ValueError, match="is compressed, which datasets does not write"):
        check_arrow(tmp_path / "a.arrow")


@pytest.mark.parametrize("damage", [b"no arrow", b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 40])
def test_what_is_no_arrow_file(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(damage)
    with pytest.raises(ValueError, match="is no whole Arrow file"):
        check_arrow(tmp_path / "a.arrow")


def test_large_honest_files_are_read(tmp_path: Path) -> None:
    assert allowance(1) == 128 << 20
    assert allowance(1 << 30) == 20 << 30
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2000, 32, 32), np.uint8))
    assert len(open_images(tmp_path / "a.npz", split="train", split_fractions=(0, 0))) == 2000


def sfnt(**tables: bytes) -> bytes:
    """A font with these tables."""
    head = b"\0\1\0\0" + struct.pack(">HHHH", len(tables), 0, 0, 0)
    offset, entries = 12 + 16 * len(tables), b""
    for tag, data in tables.items():
        entries += struct.pack(">4sIII", tag.encode(), 0, offset, len(data))
        offset += len(data)
    return head + entries + b"".join(tables.values())


def test_fonts_whose_tables_point_to_one_place_again_and_again() -> None:
    groups = 1000
    wide = struct.pack(">III", 0, 0x10FFFF, 0) * groups
    cmap = struct.pack(">HHHHI", 0, 1, 3, 10, 12) + struct.pack(">HHIII", 12, 0, 0, 0, groups) + wide
    arrays = struct.pack(">HHI", 0, 65535, 0) * 1000
    cblc = struct.pack(">HHI", 3, 0, 1) + struct.pack(">III", 56, len(arrays), 1000) + bytes(36) + arrays
    sets = struct.pack(">HHH", 1, 0, 4000) + struct.pack(">H", 8010) * 4000 + bytes(4)
    chosen = struct.pack(">H", 4000) + struct.pack(">H", 8002) * 4000 + struct.pack(">HH", 1, 2)
    lookup = struct.pack(">HHHH", 4, 0, 1, 8) + sets + chosen
    gsub = struct.pack(">HHHHH", 1, 0, 0, 0, 10) + struct.pack(">HH", 1, 4) + lookup
    for font in (sfnt(cmap=cmap), sfnt(CBLC=cblc), sfnt(GSUB=gsub)):
        assert len(font) < 40_000
        with pytest.raises(ValueError, match="above the limit of 2,000,000"):
            check_font(font)
    for font, message in ((b"wOF2" + bytes(40), "convert it to .ttf"), (sfnt(cmap=b"")[:20], "cut short")):
        with pytest.raises(ValueError, match=message):
            check_font(font)

"""What is opened: plain files only, and nothing that unpacks to more memory than its size deserves."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmvq import files, reading
from gmvq.data import open_images, open_signals
from gmvq.data.decode import UnreadableImageError, decode
from gmvq.data.emoji import check_font
from gmvq.data.limits import check_arrow
from gmvq.files import atomic_write, check_space, inside, open_append, write_bytes
from gmvq.models.weights import read_weights
from gmvq.reading import (
    allowance,
    check_plain,
    is_number,
    open_input,
    parse_json,
    read_gzip,
    read_json,
    read_text,
)
from gmvq.training.checkpoint import find_model

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.npy")
    return tmp_path / "pipe.npy"


@pytest.mark.parametrize(
    "use", [open_input, check_plain, read_text, read_json, read_gzip, read_weights, open_images, open_signals]
)
def test_fifos_and_devices_are_refused_before_they_are_opened(
    fifo: Path, use: Callable[[Path], object]
) -> None:
    for path in (fifo, Path("/dev/zero")):
        with pytest.raises((ValueError, OSError), match=r"FIFO, socket or device|is missing"):
            use(path)


def test_a_file_above_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert reading.read_bytes(tmp_path / "a", 11) == b"x" * 11
    with pytest.raises(ValueError, match="above the limit of 10"):
        reading.read_bytes(tmp_path / "a", 10)
    with pytest.raises(ValueError, match="is a folder"):
        reading.read_bytes(tmp_path)


# Containers


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
        with pytest.raises(ValueError, match=r"announces 4,096,000,000,000 bytes of numbers, and 64 follow"):
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


# Formats


def test_postscript_is_never_handed_to_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named .png, or inside of a font, PostScript is no picture, and nothing is started."""
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("gs") == str(tmp_path / "gs")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="not an image in any format that is read"):
        open_images(tmp_path / "a.png")
    from gmvq.data.emoji import _glyph

    for data in (
        (tmp_path / "a.png").read_bytes(),
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 1, 80_000_000),
    ):
        with pytest.raises(UnreadableImageError, match="the bitmap of the glyph is"):
            _glyph([data], "RGB", 8, {}, 0)
    assert not ran.exists()


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


def test_a_large_picture_with_transparency_takes_no_multiple_of_its_memory() -> None:
    """Laid on white a few rows at a time; the values are those of the whole at once."""
    random = np.random.default_rng(0).integers(0, 256, (600, 30, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(random, "RGBA").save(stream, "PNG")
    whole = Image.alpha_composite(Image.new("RGBA", (30, 600), "white"), Image.fromarray(random, "RGBA"))
    assert decode(stream.getvalue(), 3).tobytes() == whole.convert("RGB").tobytes()


# Writing


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.json", f".b.json.{os.getpid()}.tmp", "c.jsonl"):
        (out / name).symlink_to(mine)
    write_bytes(out / "a.json", b"new")
    write_bytes(out / "b.json", b"new")
    with pytest.raises(OSError, match="symbolic links"):
        open_append(out / "c.jsonl")
    assert mine.read_text() == "mine"
    assert not (out / "a.json").is_symlink()

    def swap() -> None:
        with atomic_write(out / "e") as temporary:
            temporary.symlink_to(mine)

    with pytest.raises(OSError, match="took the place"):
        swap()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "..", ".", "", "/etc/passwd", "a\\b", "a\nb", "\x1b[2J", "x" * 300, 3]
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file in"):
        inside(tmp_path, name)


def test_folders_that_are_links(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a symbolic link, through which nothing is written"):
        inside(tmp_path / "run", "model", "config.json")
    assert inside(tmp_path / "run", "config.json") == tmp_path / "run" / "config.json"
    with pytest.raises(ValueError, match="is a symbolic link, through which nothing is written"):
        files.check_own(tmp_path / "run")
    files.check_own(tmp_path / "elsewhere")
    files.check_own(tmp_path / "not there yet")


def test_room_is_asked_for_before_the_work(tmp_path: Path) -> None:
    check_space(tmp_path / "new" / "folder", 1, "this")
    with pytest.raises(
        OSError, match=r"the pictures takes at least 1,000,000,000,000\.0 MB, and the disk has"
    ):
        check_space(tmp_path / "new", 10**18, "the pictures")


def test_parameters_that_are_not_finite(tmp_path: Path) -> None:
    from gmvq.models import VQAutoencoder, build_autoencoder

    model = build_autoencoder("tiny", channels=1, dim=4, codebook_size=8)
    with torch.no_grad():
        next(iter(model.decoder.parameters())).view(-1)[3] = torch.inf
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"decoder\.\S+ holds 1 NaN or infinite values of"):
        VQAutoencoder.from_pretrained(tmp_path / "model")


def test_numbers_of_files() -> None:
    """JSON has whole numbers that no float holds, and takes NaN and infinity."""
    assert [value for value in (0, -1.5, 10**30) if not is_number(value)] == []
    odd = [
        parse_json(text) for text in ("1e999", "NaN", "-Infinity", "9" * 400, "true", "null", '"1"', "[1]")
    ]
    assert not any(map(is_number, odd))
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "3",
        "null",
        '{"step": 1e999}',
        '{"step": ' + "9" * 400 + "}",
        "\udcff",
        "[]",
        '{"step": true}',
        '{"step": "2"}',
    ],
)
def test_lines_of_a_run_that_are_none(tmp_path: Path, line: str) -> None:
    """They are left out of curves, lists of what was skipped, and what is kept when a run goes on."""
    from gmvq.data.skipping import read_noted
    from gmvq.evaluation.history import read_history

    file = tmp_path / "history.jsonl"
    text = line + '\n{"step": 2, "loss": 1.5, "mse": ' + "9" * 400 + '}\n["a.png", "broken"]\n'
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_history(file).curves == {"loss": ([2.0], [1.5])}
    assert read_noted(file)[-1] == ("a.png", "broken")
    pytest.importorskip("lightning")
    from gmvq.training.history import HistoryWriter

    HistoryWriter(file).keep_until(3)
    assert file.read_text().startswith('{"step": 2, ')
    assert len(file.read_text().splitlines()) == 1


@pytest.mark.parametrize("kind", ["fifo", "socket", "link to a device"])
def test_devices_are_not_replaced_by_files(tmp_path: Path, kind: str) -> None:
    """``--json /dev/full`` as root put a file in the place of the device."""
    target = tmp_path / "a.json"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(target))
    else:
        target.symlink_to("/dev/null")
    before = os.lstat(target)
    with pytest.raises(ValueError, match="is not replaced; give the name of a file"):
        write_bytes(target, b"new")
    assert os.lstat(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("kind", ["fifo", "loop", "nothing"])
def test_what_stands_under_a_name_is_said(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that there is none, and that perhaps the same name was meant."""
    path = tmp_path / "source"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("source" if kind == "loop" else "absent")
    what = "FIFO, socket or device" if kind == "fifo" else "symbolic link that leads to no file"
    with pytest.raises(FileNotFoundError, match=f"source' holds no model: it is a {what}"):
        find_model(path)
    for use in (open_images, open_signals):
        with pytest.raises(ValueError, match=f"it is a {what}"):
            use(path)

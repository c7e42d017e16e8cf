"""What is opened: plain files in the formats of the list; lines, numbers and weights in them that are none."""

from __future__ import annotations

import io
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmvq import reading
from gmvq.data import open_images, open_signals
from gmvq.data.decode import UnreadableImageError, decode
from gmvq.models.weights import read_weights
from gmvq.reading import (
    check_plain,
    is_number,
    open_input,
    parse_json,
    read_gzip,
    read_json,
    read_text,
)
from gmvq.training.checkpoint import find_model


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


def test_a_large_picture_with_transparency_takes_no_multiple_of_its_memory() -> None:
    """Laid on white a few rows at a time; the values are those of the whole at once."""
    random = np.random.default_rng(0).integers(0, 256, (600, 30, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(random, "RGBA").save(stream, "PNG")
    whole = Image.alpha_composite(Image.new("RGBA", (30, 600), "white"), Image.fromarray(random, "RGBA"))
    assert decode(stream.getvalue(), 3).tobytes() == whole.convert("RGB").tobytes()


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
    from gmvq.training.loggers import HistoryWriter

    HistoryWriter(file).keep_until(3)
    assert file.read_text().startswith('{"step": 2, ')
    assert len(file.read_text().splitlines()) == 1


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

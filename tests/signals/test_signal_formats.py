"""Recordings that are no WAV, damaged ones, and tables as other programs write them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gmvq.data import open_signals
from gmvq.data.audio import read_header, read_samples, wav_bytes
from gmvq.data.csv_table import read_csv

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")

RATE = 8000
Tone = Callable[..., np.ndarray]


def test_flac_is_the_same_as_wav(tmp_path: Path, tone: Tone) -> None:
    samples = tone(0, 9000, channels=2)
    (tmp_path / "a.wav").write_bytes(wav_bytes(samples, RATE))
    exact = read_samples(tmp_path / "a.wav", 0, 9000)
    soundfile.write(tmp_path / "a.flac", exact.T, RATE, subtype="PCM_24")
    assert read_header(tmp_path / "a.flac") == read_header(tmp_path / "a.wav")
    np.testing.assert_array_equal(read_samples(tmp_path / "a.flac", 0, 9000), exact)
    np.testing.assert_array_equal(read_samples(tmp_path / "a.flac", 5000, 5100), exact[:, 5000:5100])


def test_a_folder_of_several_formats(tmp_path: Path, tone: Tone) -> None:
    for i, suffix in enumerate((".wav", ".flac", ".OGG", ".wav")):
        kind = suffix[1:].upper()
        soundfile.write(tmp_path / f"{i}{suffix}", tone(i, 4000).T, RATE, format=kind)
    (tmp_path / "x.mp3").write_bytes(b"")
    dataset = open_signals(tmp_path, size=1000, split_fractions=(0, 0), augment=False)
    assert len(dataset) == 16
    assert dataset.skipped == [("x.mp3", "another kind of file: .mp3")]
    windows = torch.stack(dataset.__getitems__(list(range(16))))
    torch.testing.assert_close(windows[8], dataset[8], rtol=0, atol=0)
    assert windows.std() > 0.01


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_what_is_cut_short_is_skipped(tmp_path: Path, tone: Tone, suffix: str) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}{suffix}", tone(i, 20000).T, RATE)
    whole = (tmp_path / f"1{suffix}").read_bytes()
    (tmp_path / f"1{suffix}").write_bytes(whole[: len(whole) // 2])
    dataset = open_signals(tmp_path, size=1000, split_fractions=(0, 0))
    assert [name for name, _ in dataset.skipped] == [f"1{suffix}"]


def test_a_small_file_of_hours_of_silence_is_not_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros((1 << 20, 4), np.int16), RATE)
    assert (tmp_path / "a.flac").stat().st_size < 40_000
    monkeypatch.setattr("gmvq.data.audio._MOST_SAMPLES", 1 << 21)
    with pytest.raises(
        ValueError, match="has 4,194,304 samples, above the limit of 2,097,152 at once; cut it"
    ):
        read_samples(tmp_path / "a.flac", 0, 1 << 20)
    assert read_samples(tmp_path / "a.flac", 0, 1 << 19).shape == (4, 1 << 19)


def test_a_recording_written_to_a_pipe(tmp_path: Path, tone: Tone) -> None:
    """Its header announces all that fits, and the samples go to the end of the file."""
    data = bytearray(wav_bytes(tone(0, 100), RATE))
    data[4:8] = data[40:44] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(data)
    assert read_header(tmp_path / "a.wav").frames == 100


def test_other_kinds_of_files_are_named(tmp_path: Path, tone: Tone) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0, 100).T, RATE, format="AIFF")
    (tmp_path / "a.wav").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="recordings are WAV, FLAC or Ogg, and this is AIFF"):
        open_signals(tmp_path / "a.wav")


def test_a_file_that_breaks_later_is_named(tmp_path: Path, tone: Tone) -> None:
    soundfile.write(tmp_path / "a.flac", tone(0, 20000).T, RATE)
    dataset = open_signals(tmp_path / "a.flac", size=1000, split_fractions=(0, 0), augment=False)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"a\.flac"):
        dataset[19]


@pytest.mark.parametrize(
    "content",
    [
        "t;x\n0;1,5\n1;2,5\n",
        "0;1,5\n1;2,5\n",
        "0;1,5;2,5\n1;2,5;3,5\n",
        "t\tx\n0\t1,5\n1\t-2,5e3\n",
        't,x\n0,"1,5"\n1,"2,5"\n',
        "t;x\n0;n/a\n1;1.234,5\n",
    ],
)
def test_decimal_commas_are_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=r"column '.*', row \d: .*; write numbers with a decimal point"):
        read_csv(tmp_path / "a.csv")
    if content.startswith("t;"):
        np.testing.assert_array_equal(read_csv(tmp_path / "a.csv", "t"), [[0, 1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("t,x\n0,1,5\n1,2,5\n", "row 2: expected 2 cells, got 3; are there decimal commas"),
        ("a,b\n1,2\n3\n", "row 3: expected 2 cells, got 1"),
        ("a,b\n1,\n3,4\n", r"column 'b', row 2: expected a number, got ''"),
        ("a,b\n1,2\n3,x\n", r"column 'b', row 3: expected a number, got 'x'"),
        ("", "has no row of numbers"),
        ("a,b\n", "has no row of numbers"),
        ("day,word\n2024-01-01,x\n", "has no column of numbers; its first row is 2024-01-01, x"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "a.csv")


def test_numbers_of_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        '﻿when,"a, b",c,d\r\n12:00, 1,-2.5e-3,nan\r\n\r\n# note\r\n12:01,+3,.5,1\r\n'
    )
    np.testing.assert_allclose(read_csv(tmp_path / "a.csv", "c"), [[-2.5e-3, 0.5]])
    values = read_csv(tmp_path / "a.csv")
    assert values.shape == (3, 2)
    np.testing.assert_allclose(values[:2], [[1, 3], [-2.5e-3, 0.5]], rtol=1e-6)
    with pytest.raises(ValueError, match="1 NaN or infinite values"):
        open_signals(tmp_path / "a.csv", channels=3)


@pytest.mark.parametrize("name", ["time", "x", "0"])
def test_a_column_that_counts_is_left_out_with_a_warning(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=20)
    header = "" if name == "0" else f"{name},a\n"
    rows = [f"{i / 8},{value}\n" for i, value in enumerate(values)]
    (tmp_path / "a.csv").write_text(header + "".join(rows))
    with pytest.warns(UserWarning, match=f"the column {name} of a .csv file counts"):
        found = read_csv(tmp_path / "a.csv")
    np.testing.assert_allclose(found, values[None], rtol=1e-6)
    np.testing.assert_allclose(read_csv(tmp_path / "a.csv", name)[0], np.arange(20) / 8)
    (tmp_path / "alone.csv").write_text("".join(f"{i}\n" for i in range(20)))
    assert read_csv(tmp_path / "alone.csv").shape == (1, 20)


@pytest.mark.parametrize("content", ["1,0,05\n2,1,5\n3,0,25\n", "0,5;1,5\n1;2\n2;4\n"])
def test_decimal_commas_without_quotes(tmp_path: Path, content: str) -> None:
    """The first has a counter, and numbers of two cells; the second a first row that no number can be read from."""
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=r"row 1: expected a number, got '0,?5'.*decimal point"):
        read_csv(tmp_path / "a.csv")

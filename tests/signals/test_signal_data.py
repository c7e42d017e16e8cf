"""Recordings and series as data: formats, windows, splits, units, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gmvq.data import SignalDataset, SignalScale, open_dataset, open_images, open_signals
from gmvq.data.audio import SPEECH, read_header, read_samples, wav_bytes

RATE = 8000
Tone = Callable[..., np.ndarray]


def wav(data: bytes, *, kind: int, bits: int, channels: int = 1, extensible: bool = False) -> bytes:
    """A WAV file by hand, with a chunk of another kind in front of the samples."""
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE if extensible else kind, channels, RATE, RATE * frame, frame, bits)
    if extensible:
        guid = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
        fmt += struct.pack("<HHIH", 22, bits, 0, kind) + guid
    chunks = [(b"fmt ", fmt), (b"LIST", b"odd"), (b"data", data)]
    body = b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


EXACT = np.array([-1.0, -0.5, 0.0, 0.25, 0.75], dtype=np.float32)


@pytest.mark.parametrize(
    ("kind", "bits", "data"),
    [
        (1, 8, (EXACT * 128 + 128).astype(np.uint8).tobytes()),
        (1, 16, (EXACT * 2**15).astype("<i2").tobytes()),
        (1, 24, b"".join(int(x * 2**23).to_bytes(3, "little", signed=True) for x in EXACT)),
        (1, 32, (EXACT.astype(np.float64) * 2**31).astype("<i4").tobytes()),
        (3, 32, EXACT.astype("<f4").tobytes()),
        (3, 64, EXACT.astype("<f8").tobytes()),
    ],
)
@pytest.mark.parametrize("extensible", [False, True])
def test_every_format_gives_the_same_samples(
    tmp_path: Path, kind: int, bits: int, data: bytes, extensible: bool
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(wav(data, kind=kind, bits=bits, extensible=extensible))
    header = read_header(file)
    assert (header.rate, header.channels, header.frames) == (RATE, 1, 5)
    np.testing.assert_array_equal(read_samples(file, 0, 5), EXACT[None])
    np.testing.assert_array_equal(read_samples(file, 1, 3), EXACT[None, 1:3])


def test_sixteen_bits_survive_reading_and_writing(tmp_path: Path) -> None:
    values = np.arange(-32768, 32768, dtype=np.int64).reshape(2, -1).astype(np.float32)
    values /= 32768
    (tmp_path / "a.wav").write_bytes(wav_bytes(values, RATE))
    header = read_header(tmp_path / "a.wav")
    assert header.channels == 2
    np.testing.assert_array_equal(read_samples(tmp_path / "a.wav", 0, header.frames), values)


def test_windows_tile_a_recording_and_repeat_its_last_sample(tmp_path: Path, tone: Tone) -> None:
    exact = tone(0, 150)
    (tmp_path / "a.wav").write_bytes(wav_bytes(exact, RATE))
    dataset = open_signals(tmp_path / "a.wav", split_fractions=(0, 0), size=64, augment=False)
    windows = torch.stack([dataset[i] for i in range(len(dataset))])
    assert windows.shape == (3, 1, 64)
    assert dataset.item_name(2) == "a.wav[t=128]"
    joined = dataset.scale.from_unit(windows).movedim(1, 0).flatten(1).numpy()
    np.testing.assert_allclose(joined[:, :150], exact, atol=1e-4)
    assert (joined[:, 150:] == joined[:, 149]).all()


def test_training_windows_depend_on_the_draw_alone(recordings: Path) -> None:
    dataset = open_signals(recordings, size=64, seed=3)
    again = open_signals(recordings, size=64, seed=3)
    one, two = dataset[(0, 17)], dataset[(5, 17)]
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(one, again[(1, 17)], rtol=0, atol=0)
    drawn = torch.stack(dataset.__getitems__([(0, draw) for draw in range(100)]))
    assert len(drawn.unique(dim=0)) > 90
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_recordings_are_divided_whole(recordings: Path) -> None:
    files = []
    for split in ("train", "validation", "test"):
        dataset = open_signals(recordings, split=split, size=64)
        files.append({dataset.item_name(i).split("[")[0] for i in range(len(dataset))})
        assert "8000 Hz" in dataset.description
    assert sum(map(len, files)) == 12
    assert len(set.union(*files)) == 12


def test_a_single_signal_is_divided_in_time(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(1000.0))
    parts = [
        open_signals(tmp_path / "one.npy", split=s, size=10, augment=False)
        for s in ("train", "validation", "test")
    ]
    values = [p.scale.from_unit(torch.stack([p[i] for i in range(len(p))])) for p in parts]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert len({part.scale for part in parts}) == 1
    torch.testing.assert_close(torch.cat(values).flatten(), torch.arange(1000.0), rtol=0, atol=1e-3)
    assert parts[0].scale.low == pytest.approx(-79.9)
    assert parts[0].scale.high == pytest.approx(878.9)


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ("1,2\n3,4\n", None, [[1, 3], [2, 4]]),
        ("# source; and more\ndate;a;b\n2024-01-01;1;2\n2024-01-02;3;4\n", None, [[1, 3], [2, 4]]),
        ("time,a,b\n0,1,2\n1,3,4\n", "b, a", [[2, 4], [1, 3]]),
    ],
)
def test_csv_columns(tmp_path: Path, content: str, column: str | None, expected: list[list[float]]) -> None:
    (tmp_path / "a.csv").write_text(content)
    dataset = open_signals(
        tmp_path / "a.csv",
        size=2,
        channels=2,
        column=column,
        augment=False,
        split_fractions=(0, 0),
        value_range=(0, 1),
    )
    torch.testing.assert_close(dataset[0], torch.tensor(expected, dtype=torch.float32))


def test_npz_splits_and_folders_of_series(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 2, 20))
    np.savez(tmp_path / "a.npz", train=rows[:4], test=rows[4:])
    test = open_signals(tmp_path / "a.npz", split="test", size=20, channels=2)
    assert len(test) == 2
    assert test.scale.high > rows[:4].max()
    torch.testing.assert_close(test.scale.from_unit(test[1]), torch.from_numpy(rows[5]).float())
    (tmp_path / "folder").mkdir()
    for number, row in enumerate(rows):
        np.save(tmp_path / "folder" / f"{number}.npy", row)
    assert len(open_signals(tmp_path / "folder", size=20, channels=2, split_fractions=(0, 0))) == 6
    np.save(tmp_path / "folder" / "other.npy", rows[0, :1])
    some = open_signals(tmp_path / "folder", size=20, channels=2, split_fractions=(0, 0))
    assert len(some) == 6
    ((name, reason),) = some.skipped
    assert name == "other.npy"
    assert "it has 1 channel, and the model takes 2; pass --model.channels 1, or choose columns" in reason


def test_subfolders_of_series_are_splits(tmp_path: Path) -> None:
    for part, numbers in {"train": range(8), "Test": (8, 9), "notes": (90,)}.items():
        (tmp_path / part).mkdir()
        for number in numbers:
            np.save(tmp_path / part / f"{number}.npy", np.linspace(0, number, 40))
    for part in ("train", "notes"):
        (tmp_path / part / "gone.npy").symlink_to("nothing")
    opened = {
        split: open_signals(tmp_path, split=split, size=20) for split in ("train", "validation", "test")
    }
    held = {
        split: {dataset.item_name(i).split("[")[0] for i in range(len(dataset))}
        for split, dataset in opened.items()
    }
    assert held["test"] == {"Test/8.npy", "Test/9.npy"}
    assert held["train"] | held["validation"] == {f"train/{number}.npy" for number in range(8)}
    assert not held["train"] & held["validation"]
    assert opened["train"].skipped == [("train/gone.npy", "a link to nothing")]
    assert opened["test"].scale.high < 8  # of the train split: 7, and a tenth of the range more


def test_stereo_becomes_its_mean_or_stays(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone(0, 100, channels=2), RATE))
    options = {"size": 100, "split_fractions": (0, 0), "augment": False}
    both = open_signals(tmp_path / "a.wav", channels=2, **options)[0]
    torch.testing.assert_close(open_signals(tmp_path / "a.wav", **options)[0], both.mean(0, keepdim=True))
    with pytest.raises(
        ValueError, match=r"has 2 channels, and the model takes 3; pass --model.channels 2, or 1"
    ):
        open_signals(tmp_path / "a.wav", channels=3)


def _write(folder: Path, kind: str, tone: Tone) -> Path:
    good = wav_bytes(tone(0, 100), RATE)
    files: dict[str, bytes] = {
        "rates": b"",
        "empty": b"",
        "truncated": good[:-10],
        "compressed": wav(bytes(8), kind=0x1234, bits=8),
        "no-samples": wav(b"", kind=1, bits=16),
        "text": b"no sound at all",
    }
    if kind == "rates":
        (folder / "a.wav").write_bytes(good)
        (folder / "b.wav").write_bytes(wav_bytes(tone(0, 100), 2 * RATE))
    elif kind == "nan":
        np.save(folder / "a.npy", np.array([1.0, np.nan]))
        return folder / "a.npy"
    elif kind == "objects":
        np.save(folder / "a.npy", np.array(["a", "b"]))
        return folder / "a.npy"
    elif kind == "constant":
        np.save(folder / "a.npy", np.ones((5, 40)))
        return folder / "a.npy"
    elif kind == "gap":
        (folder / "a.csv").write_text("a,b\n1,2\n3,\n")
        return folder / "a.csv"
    elif kind == "words":
        (folder / "a.csv").write_text("a,b\nx,y\n")
        return folder / "a.csv"
    elif kind == "nothing":
        (folder / "a.txt").write_text("")
    elif kind != "few":
        (folder / "a.wav").write_bytes(files[kind])
    if kind == "few":
        for name in "ab":
            (folder / f"{name}.wav").write_bytes(good)
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "rates",
            r"one sample rate; there are 1 at 8000 Hz \(such as a.wav\), 1 at 16000 Hz \(such as b.wav\)",
        ),
        ("empty", "no readable recording .* the file is empty"),
        ("truncated", "announces 200 bytes of samples and holds 190"),
        ("compressed", "not a recording that can be read: .*Malformed"),
        ("no-samples", "it has no samples"),
        ("text", "not a recording that can be read: Format not recognised"),
        ("few", "2 recordings cannot be divided into train, validation, test"),
        ("nan", "1 NaN or infinite values of 2"),
        ("objects", r"expected numbers of shape \(T,\), \(N, T\) or \(N, channels, T\)"),
        ("constant", "every value of the train split is 1.0"),
        ("gap", r"column 'b', row 3: expected a number, got ''"),
        ("words", "no column of numbers"),
        ("nothing", "no .wav, .flac, .ogg, .npy or .csv file"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, kind: str, message: str, tone: Tone) -> None:
    path = _write(tmp_path, kind, tone)
    with pytest.raises(ValueError, match=message):
        open_signals(path, size=16, channels=2 if kind == "gap" else 1)


def test_images_and_signals_are_not_mixed_up(recordings: Path, tmp_path: Path) -> None:
    for path in ("speech", recordings, recordings / "1.wav"):
        with pytest.raises(ValueError, match=r"--model\.spatial_dims 1"):
            open_images(path)
    with pytest.raises(ValueError, match="holds images"):
        open_dataset("photos", spatial_dims=1)
    np.save(tmp_path / "a.npy", np.zeros((4, 100), dtype=np.float32))
    with pytest.raises(ValueError, match=r"series of numbers: pass --model\.spatial_dims 1"):
        open_images(tmp_path / "a.npy")


def test_scale_is_inverted_and_kept() -> None:
    scale = SignalScale(-2.0, 6.0, 8000)
    values = torch.tensor([-2.0, 0.0, 6.0, 7.0])
    torch.testing.assert_close(scale.to_unit(values), torch.tensor([0.0, 0.25, 1.0, 1.125]))
    torch.testing.assert_close(scale.from_unit(scale.to_unit(values)), values)
    assert SignalScale.from_settings(scale.to_settings()) == scale
    assert SignalScale.from_settings({}) is None
    with pytest.raises(ValueError, match="damaged"):
        SignalScale.from_settings({"value_range": "wide"})


def test_the_synthetic_series_is_always_the_same() -> None:
    dataset = open_signals("synthetic_ecg", split="test", size=512)
    assert isinstance(dataset, SignalDataset)
    assert dataset[0].shape == (1, 512)
    volts = dataset.scale.from_unit(torch.stack([dataset[i] for i in range(16)]))
    assert 0.5 < float(volts.max()) < 2.5
    assert float(volts.min()) < 0


@pytest.mark.skipif(
    not SPEECH.is_dir(), reason=f"the Debian package asterisk-core-sounds-en-wav is not at {SPEECH}"
)
def test_the_speech_of_the_debian_package() -> None:
    splits = [open_signals("speech", split=split) for split in ("train", "validation", "test")]
    assert all(dataset.sample_rate == 8000 for dataset in splits)
    assert min(map(len, splits)) > 1000


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gmvq.data.audio.SPEECH", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="apt install asterisk-core-sounds-en-wav"):
        open_signals("speech")

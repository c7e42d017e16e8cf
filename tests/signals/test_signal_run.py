"""The whole path on signals through the command line: fit, evaluate, reconstruct, encode, decode, inspect, export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq import VQAutoencoder
from gmvq.data import SignalScale, open_signals
from gmvq.data.audio import read_header, read_samples, wav_bytes

RATE = 8000
pytestmark = pytest.mark.xdist_group("signals")  # two runs, on one worker

Run = Callable[..., Any]
Tone = Callable[..., np.ndarray]


def read(path: Path) -> tuple[int, np.ndarray]:
    header = read_header(path)
    return header.rate, read_samples(path, 0, header.frames)


def test_a_run_leaves_model_figures_and_report(sound_run: Path) -> None:
    model = VQAutoencoder.from_pretrained(sound_run / "model")
    assert model.encode(torch.rand(2, 1, 64)).shape == (2, 16, 2)
    metrics = json.loads((sound_run / "metrics.json").read_text())
    assert metrics["image_shape"] == [1, 64]
    assert metrics["sample_rate"] == RATE
    assert math.isfinite(metrics["snr"])
    assert math.isfinite(metrics["log_spectral_distance"])
    # two codes of 16 for every 4 samples
    assert metrics["bits_per_second_fixed"] == pytest.approx(RATE * 2 * 4 / 4)
    assert "signals" in metrics["skipped"]["ssim"]
    report = (sound_run / "report.html").read_text()
    assert "<svg" in report
    assert "SNR" in report
    assert "seconds" in report
    settings = json.loads((sound_run / "model" / "config.json").read_text())
    assert SignalScale.from_settings(settings["metadata"]["data"]) == SignalScale(-1.0, 1.0, RATE)


def test_evaluate(sound_run: Path, recordings: Path, gmvq: Run) -> None:
    result = gmvq(
        "evaluate", sound_run, "--data", recordings, "--split", "validation", "--json", sound_run / "v.json"
    )
    assert result.code == 0
    assert "SNR" in result.out
    assert "bits/second" in result.out
    assert "windows" in result.out
    again = gmvq("evaluate", sound_run)
    assert again.code == 0
    assert "test; split by a fixed hash" in again.err


def test_what_decode_writes_is_reconstruct(
    sound_run: Path, recordings: Path, tmp_path: Path, gmvq: Run
) -> None:
    assert gmvq("encode", sound_run, "--split", "test", "--out", tmp_path / "tokens", "--quiet").code == 0
    assert gmvq("tokens", "verify", tmp_path / "tokens").code == 0
    model = VQAutoencoder.from_pretrained(sound_run / "model")
    windows = open_signals(recordings, split="test", size=64)
    batch = torch.stack([windows[i] for i in range(len(windows))])
    torch.testing.assert_close(model.decode(model.encode(batch)), model.reconstruct(batch), rtol=0, atol=0)
    expected = windows.scale.from_unit(model.reconstruct(batch).clamp(0, 1)).numpy()

    assert gmvq("decode", tmp_path / "tokens", "--out", tmp_path / "all.npy", "--quiet").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy"), expected)
    assert gmvq("decode", tmp_path / "tokens", "--out", tmp_path / "wavs", "--quiet").code == 0
    files = sorted((tmp_path / "wavs").iterdir())
    assert len(files) == len(windows)
    assert gmvq("decode", tmp_path / "tokens", "--out", tmp_path / "wavs").code != 0
    rate, samples = read(files[1])
    assert rate == RATE
    np.testing.assert_allclose(samples, expected[1], atol=0.5 / 32768 + 1e-7)
    refused = gmvq("decode", tmp_path / "tokens", "--out", tmp_path / "x.parquet")
    assert refused.code == 2
    assert "for images" in refused.err


def test_reconstruct_a_recording_of_any_length(
    sound_run: Path, tmp_path: Path, gmvq: Run, tone: Tone
) -> None:
    (tmp_path / "in.wav").write_bytes(wav_bytes(tone(1, 333), RATE))
    (tmp_path / "fast.wav").write_bytes(wav_bytes(tone(1, 333), 2 * RATE))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    result = gmvq("reconstruct", sound_run, tmp_path, "--out", tmp_path / "out")
    assert result.code == 1
    assert "1 reconstructed, mean SNR" in result.out
    assert "16000 Hz" in result.err
    assert "not a recording that can be read" in result.err
    rate, samples = read(tmp_path / "out" / "in.wav")
    assert (rate, samples.shape) == (RATE, (1, 333))
    model = VQAutoencoder.from_pretrained(sound_run / "model")
    _, exact = read(tmp_path / "in.wav")
    padded = torch.from_numpy(np.pad(exact, ((0, 0), (0, 3)), mode="edge"))[None]
    expected = (model.reconstruct((padded + 1) / 2)[0, :, :333] * 2 - 1).clamp(-1, 1 - 1 / 32768)
    np.testing.assert_allclose(samples, expected.numpy(), atol=0.5 / 32768 + 1e-6)


def test_series_keep_their_units_and_shape(series_run: Path, tmp_path: Path, gmvq: Run) -> None:
    series = np.load(series_run.parent / "series.npy")
    assert gmvq("reconstruct", series_run, series_run.parent / "series.npy", "--out", tmp_path).code == 0
    made = np.load(tmp_path / "series.npy")
    assert made.shape == series.shape
    assert abs(float(made.mean()) - 1000) < 60
    np.savetxt(tmp_path / "one.csv", series[0], header="value", comments="")
    assert gmvq("reconstruct", series_run, tmp_path / "one.csv", "--out", tmp_path / "out").code == 0
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out" / "one.csv"), made[0], rtol=1e-5)
    metrics = json.loads((series_run / "metrics.json").read_text())
    assert metrics["sample_rate"] is None
    assert metrics["bits_per_second_fixed"] is None
    encoded = gmvq("encode", series_run, "--out", tmp_path / "tokens", "--quiet")
    assert encoded.code == 0
    assert "train" in encoded.out
    assert "test" in encoded.out
    assert (
        gmvq("decode", tmp_path / "tokens", "--split", "test", "--out", tmp_path / "d", "--quiet").code == 0
    )
    assert np.load(next((tmp_path / "d").iterdir())).shape == (1, 64)


def test_one_code_per_position_can_be_inspected_and_exported(
    recordings: Path, tmp_path: Path, gmvq: Run, small: list[str]
) -> None:
    options = [*small, "--model.num_quantizers", "1", "--model.downsample", "8"]
    assert gmvq("fit", "--data.path", recordings, "--out", tmp_path / "run", *options).code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert math.isfinite(metrics["elbo"])
    assert math.isfinite(metrics["information"])
    shown = gmvq("inspect", tmp_path / "run")
    assert shown.code == 0
    assert "one token for 8 samples" in shown.out
    assert (
        gmvq("export", tmp_path / "run", "--format", "torch-export", "--out", tmp_path / "exported").code == 0
    )
    resumed = gmvq("fit", "--ckpt_path", tmp_path / "run", "--trainer.max_steps", "8")
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.spatial_dims", "2"],
            "holds signals, and the model takes images; pass --model.spatial_dims 1",
        ),
        (["--model.spatial_dims", "3"], "1 (signals) or 2 (images) spatial dimensions"),
        (["--model.channels", "3"], "has 1 channel, and the model takes 3; pass --model.channels 1"),
        (["--data.size", "66"], "multiple of model.downsample=4"),
        (["--data.path", "photos"], "'photos' holds images, and the model takes signals"),
        (["--data.path", "spech"], "Did you mean 'speech'"),
        (["--data.value_range", "[1, -1]"], "data.value_range must be two numbers, low < high"),
    ],
)
def test_misuse_is_explained_before_anything_is_written(
    recordings: Path, tmp_path: Path, gmvq: Run, small: list[str], options: list[str], message: str
) -> None:
    result = gmvq("fit", "--out", tmp_path / "run", "--data.path", recordings, *small, *options)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "run").exists()


def test_data_of_another_rate_is_refused(sound_run: Path, tmp_path: Path, gmvq: Run, tone: Tone) -> None:
    (tmp_path / "fast.wav").write_bytes(wav_bytes(tone(1, 500), 2 * RATE))
    for command in (["evaluate", sound_run], ["encode", sound_run, "--out", tmp_path / "tokens"]):
        result = gmvq(*command, "--data", tmp_path / "fast.wav")
        assert result.code == 2
        assert "trained on signals at 8000 Hz, and these are at 16000 Hz" in result.err

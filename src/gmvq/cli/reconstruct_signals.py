"""What ``gmvq reconstruct`` does with signals: whole recordings and series, at their own length, in their own units."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..files import write_bytes
from .common import Loaded


def reconstruct_sound(file: Path, loaded: Loaded, target: Path) -> float:
    """Write the reconstruction of a recording as a 16-bit WAV file; return the SNR in dB."""
    from ..data.audio import read_header, read_samples, to_channels, wav_bytes

    assert loaded.scale is not None
    header = read_header(file)
    if header.rate != loaded.scale.sample_rate:
        raise ValueError(
            f"it is at {header.rate} Hz, and the model was trained at {loaded.scale.sample_rate} Hz; resample it"
        )
    samples = to_channels(read_samples(file, 0, header.frames), loaded.channels)
    result = _reconstruct(samples, loaded)
    write_bytes(target, wav_bytes(result, header.rate))
    return _snr(samples, result)


def reconstruct_series(file: Path, loaded: Loaded, target: Path) -> float:
    """Write the reconstruction of an .npy file in its shape, or of a .csv file (its columns of numbers, no header).

    Returns the SNR in dB over all series of the file.
    """
    from ..data.arrays import read_npy
    from ..data.series import read_series
    from ..tokens.writing import npy_bytes

    table = file.suffix.lower() == ".csv"
    series = read_series(file, loaded.data.get("column") if table else None)
    if not table and len(series) == loaded.channels and all(len(one) == 1 for one in series):
        series = [np.concatenate(series)]  # (channels, T), as a file of a folder is read
    wrong = next((len(one) for one in series if len(one) != loaded.channels), None)
    if wrong is not None:
        raise ValueError(f"its series have {wrong} channels, and the model takes {loaded.channels}")
    results = [_reconstruct(one, loaded) for one in series]
    if table:
        buffer = io.BytesIO()
        np.savetxt(buffer, results[0].T, fmt="%.9g", delimiter=",")
        write_bytes(target, buffer.getvalue())
    else:
        shape = read_npy(file, "", mapped=True).shape
        write_bytes(target, npy_bytes(np.stack(results).reshape(shape)))
    return _snr(np.concatenate(series, 1), np.concatenate(results, 1))


def _reconstruct(signal: NDArray[np.float32], loaded: Loaded) -> NDArray[np.float32]:
    """A signal (channels, T) through the tokenizer, the last sample repeated up to a whole token; in its own units."""
    from ..tokens.writing import in_own_units

    assert loaded.scale is not None
    padded = np.pad(signal, ((0, 0), (0, -signal.shape[1] % loaded.downsample)), mode="edge")
    device = next(loaded.model.parameters()).device
    unit = torch.from_numpy(loaded.scale.to_unit(padded))[None].to(device)
    result = loaded.model.reconstruct(unit, **loaded.spend)
    return in_own_units(result[0], loaded.scale)[:, : signal.shape[1]]


def _snr(signal: NDArray[np.float32], result: NDArray[np.float32]) -> float:
    from ..evaluation.signals import snr

    exact = signal.astype(np.float64)
    energy = float(np.square(exact - exact.mean(1, keepdims=True)).sum())
    return snr(energy, float(np.square(exact - result).sum()))

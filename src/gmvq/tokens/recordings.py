"""Decoded signals as files: a folder of WAV files (sound) or .npy files (series), or one .npy file of all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data import SignalScale
from ..data.audio import wav_bytes
from ..files import written_whole
from .decode import DecodedBatch


def write_signals(
    batches: Iterable[DecodedBatch],
    out: str | os.PathLike[str],
    scale: SignalScale,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write decoded windows in their own units: ``out/00000012.wav`` by id, or all in one array if out ends in .npy.

    Sound becomes 16-bit WAV files at its sample rate, a series .npy files, float32 (channels, T). The single array is
    (N, channels, T), in the order of the ids; it is held in memory.

    Args:
        batches: of ``decode_tokens``.
        out: a folder that is new or empty, or the name of an .npy file that does not exist.
        scale: of the model's training.
        progress: called with the number of windows written so far.

    Returns:
        The number of windows.

    Raises:
        ValueError: something is there already: nothing is overwritten.
    """
    target = Path(out).expanduser()
    check_signal_target(target)
    single = target.suffix.lower() == ".npy"
    (target.parent if single else target).mkdir(parents=True, exist_ok=True)
    count, parts = 0, []
    for batch in batches:
        windows = in_own_units(batch.images, scale)
        if single:
            parts.append(windows)
        else:
            for i, window in zip(batch.ids.tolist(), windows, strict=True):
                suffix, data = signal_file(window, scale)
                _write(target / f"{i:08d}{suffix}", data)
        count += len(batch.ids)
        if progress is not None:
            progress(count)
    if single:
        _write(target, npy_bytes(np.concatenate(parts) if parts else np.empty((0, 0, 0), np.float32)))
    return count


def check_signal_target(target: Path) -> None:
    """Raise ValueError if signals written to ``target`` would meet something that is there, or it is a table."""
    if target.suffix.lower() == ".parquet":
        raise ValueError("a .parquet table is for images; give --out a new folder, or an .npy file")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(
            f"{target} is there already, and nothing is overwritten; give --out a new folder, or an .npy file"
        )


def in_own_units(signals: Tensor, scale: SignalScale) -> NDArray[np.float32]:
    """From the decoder's output (..., C, T) to float32 in the signal's units, clamped to the scale."""
    return scale.from_unit(signals.detach().float().cpu().clamp(0.0, 1.0)).numpy()


def signal_file(signal: NDArray[np.float32], scale: SignalScale) -> tuple[str, bytes]:
    """Suffix and contents of the file of one signal (C, T): .wav if it is sound, else .npy."""
    if scale.sample_rate is None:
        return ".npy", npy_bytes(signal)
    return ".wav", wav_bytes(signal, scale.sample_rate)


def npy_bytes(values: NDArray[np.float32]) -> bytes:
    """The contents of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _write(file: Path, data: bytes) -> None:
    with written_whole(file) as temporary:
        temporary.write_bytes(data)

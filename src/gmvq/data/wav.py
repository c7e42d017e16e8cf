"""WAV files: where their samples lie, some of them as floats, and 16-bit files from floats.

The standard library's ``wave`` reads neither floating-point samples nor the extensible header; the format is a list
of chunks, and the samples are one of them.
"""

from __future__ import annotations

import io
import struct
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}


@dataclass(frozen=True)
class WavHeader:
    """What a file holds: ``frames`` samples of each of ``channels`` at ``rate`` Hz, from byte ``offset`` on."""

    rate: int
    channels: int
    bits: int
    floating: bool
    offset: int
    frames: int


def read_header(path: Path) -> WavHeader:
    """Read the header of a WAV file.

    Raises:
        ValueError: it is empty, no WAV file, incomplete, compressed, or has no samples.
    """
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    layout: tuple[int, int, int, int] | None = None
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            raise ValueError(f"no WAV file: it begins with {start[:4].hex(' ')}")
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"fmt ":
                layout = _layout(file.read(length + length % 2))
            elif name == b"data":
                if layout is None:
                    raise ValueError("its samples come before their format")
                kind, channels, rate, bits = layout
                offset, frame = file.tell(), channels * bits // 8
                if offset + length > size:
                    raise ValueError(f"announces {length} bytes of samples and holds {size - offset}")
                if length < frame:
                    raise ValueError("it has no samples")
                return WavHeader(rate, channels, bits, kind == _FLOAT, offset, length // frame)
            else:
                file.seek(length + length % 2, 1)
    raise ValueError("it has no samples")


def read_samples(path: Path, header: WavHeader, start: int, stop: int) -> NDArray[np.float32]:
    """Read samples ``start`` to ``stop`` of every channel: float32 (channels, stop - start).

    Integers are divided by 2^(bits - 1) and so lie in [-1, 1); floats are taken as they are.

    Raises:
        ValueError: the file has become shorter, or a sample is NaN or infinite.
    """
    frame = header.channels * header.bits // 8
    with path.open("rb") as file:
        file.seek(header.offset + start * frame)
        data = file.read((stop - start) * frame)
    if len(data) != (stop - start) * frame:
        raise ValueError(f"{path} has become shorter since it was opened")
    values = _decode(data, header).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{path} holds NaN or infinite samples between {start} and {stop}; mend or remove it"
        )
    return values.reshape(-1, header.channels).T


def wav_bytes(samples: NDArray[np.float32], rate: int) -> bytes:
    """Write samples (channels, T) in [-1, 1] as a 16-bit WAV file; values outside are clipped.

    The inverse of ``read_samples`` on 16-bit files: x * 2^15, rounded.
    """
    values = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(values.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(values.T).tobytes())
    return buffer.getvalue()


def _layout(data: bytes) -> tuple[int, int, int, int]:
    """Kind, channels, rate and bits of the chunk ``fmt``."""
    if len(data) < 16:
        raise ValueError("its header is cut off")
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", data[:16])
    if kind == _EXTENSIBLE and len(data) >= 26:
        (kind,) = struct.unpack("<H", data[24:26])
    if bits not in _WIDTHS.get(kind, ()):
        raise ValueError(f"format {kind} with {bits} bits is not read; convert it to 16-bit PCM")
    if channels < 1 or rate < 1 or frame != channels * bits // 8:
        raise ValueError(
            f"its header contradicts itself: {channels} channels of {bits} bits in {frame} bytes at {rate} Hz"
        )
    return kind, channels, rate, bits


def _decode(data: bytes, header: WavHeader) -> NDArray[np.floating]:
    if header.floating:
        return np.frombuffer(data, dtype="<f4" if header.bits == 32 else "<f8")
    if header.bits == 8:
        return np.frombuffer(data, dtype=np.uint8).astype(np.float32) / 128 - 1
    if header.bits == 24:
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(data, dtype=f"<i{header.bits // 8}") / 2.0 ** (header.bits - 1)

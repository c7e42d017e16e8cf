"""Recordings (WAV, FLAC, Ogg): a file, a folder of them, and the spoken prompts of a telephone exchange of Debian.

``soundfile`` reads them. Ours are two things that it does not do: it takes a WAV file that is cut short for a shorter
one, and it writes 16-bit samples by another factor than it reads them by.
"""

from __future__ import annotations

import io
import struct
import wave
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import as_value_error, require
from ..reading import check_plain, open_input
from .folders import Listing, readable_files, walk
from .signals import SignalScale, SignalSource, choose_spans, wrong_channels
from .skipping import OTHER_KIND, UnreadableError
from .splits import Wanted

SPEECH = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
#: The same files, wherever the package was unpacked.
_PACKAGE = "asterisk-core-sounds-en-wav"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
_MEAN = ", or 1 for the mean of them"
_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG"}
#: Most samples of all channels that are read at once, an hour and a half at 48 kHz: a few hundred kilobytes of FLAC
#: unpack to gigabytes.
_MOST_SAMPLES = 1 << 28


class AudioHeader(NamedTuple):
    """What a file holds: ``frames`` samples of each of ``channels`` at ``rate`` Hz."""

    rate: int
    channels: int
    frames: int


def read_header(path: Path) -> AudioHeader:
    """Read what a recording holds, and whether its last sample is there."""
    soundfile = require("soundfile", "data")
    if check_plain(path) == 0:
        raise ValueError("the file is empty")
    try:
        with open_input(path) as stream, soundfile.SoundFile(stream) as file:
            if file.format not in _FORMATS:
                raise ValueError(f"recordings are WAV, FLAC or Ogg, and this is {file.format}; convert it")
            if not file.frames:
                raise ValueError("it has no samples")
            _check_whole(path)
            file.seek(file.frames - 1)
            if len(file.read(1)) != 1:
                raise ValueError(f"announces {file.frames} samples and holds fewer")
            return AudioHeader(file.samplerate, file.channels, file.frames)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"not a recording that can be read: {error.error_string}") from error


def _check_whole(path: Path) -> None:
    """Raise ValueError if a WAV file holds fewer bytes of samples than it announces."""
    size = path.stat().st_size
    with open_input(path) as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            # A file that was written to a pipe announces all that fits, and may hold less.
            if name == b"data" and size - file.tell() < length < 0xFFFF_0000:
                raise ValueError(f"announces {length} bytes of samples and holds {size - file.tell()}")
            file.seek(length + length % 2, 1)


def read_samples(path: Path, start: int, stop: int) -> NDArray[np.float32]:
    """Read samples ``start`` to ``stop`` of every channel: float32 (channels, stop - start).

    Integers of b bits are divided by 2^(b - 1) and so lie in [-1, 1); floats are taken as they are.
    """
    soundfile = require("soundfile", "data")
    try:
        with open_input(path) as stream, soundfile.SoundFile(stream) as file:
            if (stop - start) * file.channels > _MOST_SAMPLES:
                raise UnreadableError(
                    f"{path} has {(stop - start) * file.channels:,} samples, above the limit of {_MOST_SAMPLES:,} at "
                    "once; cut it into parts"
                )
            file.seek(start)
            values = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UnreadableError(
            f"cannot read samples {start} to {stop} of {path}: {error.error_string}; mend or remove it"
        ) from error
    if len(values) != stop - start:
        raise UnreadableError(f"{path} has become shorter since it was opened")
    if not np.isfinite(values).all():
        raise UnreadableError(
            f"{path} holds NaN or infinite samples between {start} and {stop}; mend or remove it"
        )
    return values.T


def wav_bytes(samples: NDArray[np.float32], rate: int) -> bytes:
    """Write samples (channels, T) in [-1, 1] as a 16-bit WAV file; values outside are clipped.

    Samples are x * 2^15, rounded: the inverse of ``read_samples`` on 16-bit files. No extra is needed.
    """
    values = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(values.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(values.T).tobytes())
    return buffer.getvalue()


def to_channels(samples: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Bring (C, T) to the channels of a model: their mean for 1, else they have to be as many."""
    if samples.shape[0] == channels:
        return samples
    if channels == 1:
        return samples.mean(0, keepdims=True)
    found = samples.shape[0]
    raise ValueError(wrong_channels("the recording", found, channels, _MEAN * (found > 1)))


def open_speech(wanted: Wanted) -> SignalSource:
    """Open one split of 568 prompts in English by one speaker, 25 minutes at 8 kHz."""
    if not SPEECH.is_dir():
        raise FileNotFoundError(
            f"the speech is not at {SPEECH}; install it with: apt install {_PACKAGE}; or, without being root: "
            f"apt-get download {_PACKAGE} && dpkg -x {_PACKAGE}_*.deb DIR, and give "
            f"--data.path DIR{SPEECH}"
        )
    return open_audio(SPEECH, walk(SPEECH), wanted)


def open_audio(path: Path, listing: Listing, wanted: Wanted) -> SignalSource:
    """Open one split of a folder of recordings, nested as deep as you like, or of one file.

    Files are divided as images are (see ``readable_files``); a single one is divided in time: its beginning is the
    train split, its end the test split.
    """
    check = partial(_check, wanted)
    if path.is_file():
        with as_value_error(f"cannot use {path}", ValueError):
            headers = {path.name: check(path)}
        root, keys, skipped = path.parent, {"train": [path.name]}, []
    else:
        root = path
        headers, keys, skipped = readable_files(path, listing, wanted.split, check, "recording")
    rate = _one_rate(headers)
    home = next(name for name, files in keys.items() if files)
    frames = [header.frames for header in headers.values()]
    _, spans, rule = choose_spans(keys, {home: frames}, wanted, "recordings")
    return SignalSource(
        read_span=partial(_read, root, list(headers), wanted.channels),
        spans=spans,
        names=list(headers),
        scale=SignalScale(*(wanted.limits or (-1.0, 1.0)), sample_rate=rate),
        description=f"{path.name} ({wanted.split}; {rule})",
        skipped=skipped,
    )


def _read(
    root: Path, files: list[str], channels: int, number: int, start: int, stop: int
) -> NDArray[np.float32]:
    return to_channels(read_samples(root / files[number], start, stop), channels)


def _check(wanted: Wanted, path: Path) -> AudioHeader:
    """Read what a recording holds; ValueError if it cannot be used."""
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(f"{OTHER_KIND}: {path.suffix}")
    header = read_header(path)
    if wanted.channels not in (1, header.channels):
        raise ValueError(
            wrong_channels("it", header.channels, wanted.channels, _MEAN * (header.channels > 1))
        )
    if wanted.sample_rate not in (None, header.rate):
        raise ValueError(
            f"the model was trained on signals at {wanted.sample_rate} Hz, and these are at {header.rate} Hz; resample "
            "them"
        )
    return header


def _one_rate(headers: Mapping[str, AudioHeader]) -> int:
    rates = Counter(header.rate for header in headers.values())
    if len(rates) > 1:
        example = {header.rate: name for name, header in reversed(list(headers.items()))}
        found = ", ".join(f"{n} at {rate} Hz (such as {example[rate]})" for rate, n in rates.most_common())
        raise ValueError(
            f"recordings of one set must have one sample rate; there are {found}: resample them, or give folders apart"
        )
    return next(iter(rates))

"""Recordings: a WAV file, a folder of them, and the spoken prompts of a telephone exchange as Debian packages them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmvq.data.folder import listing, split_folders, split_rows_of_folder
from gmvq.data.scale import SignalScale
from gmvq.data.source import time_block
from gmvq.data.wav import WavHeader, read_header, read_samples

SPEECH = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
#: The same files, wherever the package was unpacked.
_PACKAGE = "asterisk-core-sounds-en-wav"


class WavFiles:
    """WAV files of one sample rate, read where they lie, window by window.

    Args:
        root: the folder that names are relative to.
        files: their names and headers.
        channels: 1 takes the mean over a file's channels; else every file has as many.
        scale: of all.
        description: of the split.
        skipped: files that are not used, with the reason.
        span: samples used of a single file; default: all of every file.
    """

    def __init__(
        self,
        root: Path,
        files: list[tuple[str, WavHeader]],
        channels: int,
        scale: SignalScale,
        description: str,
        skipped: list[tuple[str, str]],
        span: tuple[int, int] | None = None,
    ) -> None:
        self.description, self.skipped, self.scale = description, skipped, scale
        self._root, self._files, self._channels = root, files, channels
        self._start = span[0] if span else 0
        frames = [span[1] - span[0]] if span else [header.frames for _, header in files]
        self.lengths = np.array(frames, dtype=np.int64)

    def read(self, index: int, start: int, stop: int) -> NDArray[np.float32]:
        name, header = self._files[index]
        samples = read_samples(self._root / name, header, self._start + start, self._start + stop)
        return to_channels(samples, self._channels)

    def name(self, index: int) -> str:
        return self._files[index][0]


def to_channels(samples: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Bring (C, T) to the channels of a model: their mean for 1, else they have to be as many.

    Raises:
        ValueError: they are not.
    """
    if samples.shape[0] == channels:
        return samples
    if channels == 1:
        return samples.mean(0, keepdims=True)
    raise ValueError(_wrong_channels("the recording", samples.shape[0], channels))


def open_speech(
    split: str, channels: int, limits: tuple[float, float] | None, fractions: tuple[float, float]
) -> WavFiles:
    """Open one split of 568 prompts in English by one speaker, 25 minutes at 8 kHz.

    Raises:
        FileNotFoundError: the Debian package is not installed.
    """
    if not SPEECH.is_dir():
        raise FileNotFoundError(
            f"the speech is not at {SPEECH}; install it with: apt install {_PACKAGE}; or, without being root: "
            f"apt-get download {_PACKAGE} && dpkg -x {_PACKAGE}_*.deb DIR, and give "
            f"--data.path DIR{SPEECH}"
        )
    return open_recordings(SPEECH, split, channels, limits, fractions)


def open_recordings(
    path: Path, split: str, channels: int, limits: tuple[float, float] | None, fractions: tuple[float, float]
) -> WavFiles:
    """Open one split of a folder of WAV files, nested as deep as you like, or of one file.

    Files are divided as images are (see ``open_folder``); a single file is divided in time: its beginning is the train
    split, its end the test split.

    Raises:
        ValueError: there is no recording to read, too few for the splits, or they have several sample rates, or not
            the channels asked for; the message lists what was found.
    """
    if path.is_file():
        try:
            files, skipped = [(path.name, read_header(path))], []
        except ValueError as error:
            raise ValueError(f"cannot use {path}: {error}") from error
        root, inner, home = path.parent, {}, "train"
    else:
        inner = split_folders(path)
        home = split if split in inner else "train"
        root = path
        files, skipped = _readable(path, inner.get(home, [""]))
    if not files:
        raise ValueError(f"no readable .wav file in {path}: found {listing(skipped)}")
    rate = _one_rate(files)
    for name, header in files:
        if channels not in (1, header.channels):
            raise ValueError(
                _wrong_channels(f"{path / name if path.is_dir() else path}", header.channels, channels)
            )
    scale = SignalScale(*(limits or (-1.0, 1.0)), sample_rate=rate)
    if len(files) == 1 and not inner:
        span, rule = time_block(files[0][1].frames, split, fractions)
        return WavFiles(root, files, channels, scale, f"{path.name} ({split}; {rule})", skipped, span)
    rows, rule = split_rows_of_folder([name for name, _ in files], split, inner, fractions, "recordings")
    return WavFiles(
        root, [files[i] for i in rows], channels, scale, f"{path.name} ({split}; {rule})", skipped
    )


def _readable(root: Path, bases: list[str]) -> tuple[list[tuple[str, WavHeader]], list[tuple[str, str]]]:
    """The WAV files below some subfolders of root, sorted: those that can be read, and the others with the reason."""
    files: list[tuple[str, WavHeader]] = []
    skipped: list[tuple[str, str]] = []
    for base in bases:
        for folder, inner, names in os.walk(root / base):
            inner[:] = [name for name in inner if not name.startswith((".", "__MACOSX"))]
            for name in names:
                path = Path(folder, name)
                if name.startswith("."):
                    continue
                relative = path.relative_to(root).as_posix()
                if path.suffix.lower() != ".wav":
                    skipped.append((relative, f"no recording: {path.suffix}"))
                    continue
                try:
                    files.append((relative, read_header(path)))
                except (ValueError, OSError) as error:
                    skipped.append((relative, str(error)))
    return sorted(files, key=lambda file: file[0]), sorted(skipped)


def _one_rate(files: list[tuple[str, WavHeader]]) -> int:
    rates = Counter(header.rate for _, header in files)
    if len(rates) > 1:
        example = {header.rate: name for name, header in reversed(files)}
        found = ", ".join(f"{n} at {rate} Hz (such as {example[rate]})" for rate, n in rates.most_common())
        raise ValueError(
            f"recordings of one set must have one sample rate; there are {found}: resample them, or give folders apart"
        )
    return next(iter(rates))


def _wrong_channels(what: str, found: int, wanted: int) -> str:
    return (
        f"{what} has {found} channel{'s' * (found > 1)}, and the model takes {wanted}; pass --model.channels "
        f"{found}" + ("" if found == 1 else ", or 1 for the mean of them")
    )

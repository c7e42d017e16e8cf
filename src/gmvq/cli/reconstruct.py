"""``gmvq reconstruct``: files to tokens and back, each at its own size: pictures, sound, or series of numbers."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_bytes
from ..reading import not_a_file
from .common import add_strict, option, say, switch, tell, tell_skipped
from .loaded import Loaded, add_spending, load, parser_for_model
from .unfinished import added_results

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def run(argv: Sequence[str]) -> int:
    """Reconstruct; return 0, or 1 if a file could not be read."""
    from ..data.skipping import SkippedItemError, refuse_bad, write_skipped

    options = _parser().parse_args(list(argv))
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is a folder, but {out} is a file")
    loaded = load(options)
    if options.maps and loaded.spatial_dims != 2:
        raise ValueError("--maps draws pictures, and the model is of signals; leave it out")
    reconstruct, suffixes, kind, measure = _kind(loaded, options.maps)
    files, failed = _find(options.files, suffixes)
    if options.strict:
        refuse_bad((str(file), reason) for file, reason in failed)
    if not files and not failed:
        raise ValueError(f"there is no {kind} in {', '.join(options.files)}")
    measured: list[float] = []
    width = max((len(str(file)) for file in files), default=0)
    with added_results(out, files, {"image": ".png", "recording": ".wav"}.get(kind, "")) as targets:
        for file in files:
            try:
                decibels = reconstruct(file, loaded, targets[file])
            except ValueError as error:
                if options.strict:
                    raise SkippedItemError(str(file), str(error)) from error
                failed.append((file, str(error)))
                continue
            measured.append(decibels)
            tell(f"{file!s:<{width}}  {decibels:6.2f} dB  {targets[file]}")
    if measured:
        tell(f"{len(measured)} reconstructed, mean {measure} {sum(measured) / len(measured):.2f} dB")
    for file, reason in failed:
        say(f"failed: {file}: {reason}")
    source = ", ".join(options.files)
    return tell_skipped(out, write_skipped(out, source, [(str(file), reason) for file, reason in failed]))


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "reconstruct",
        "Encode images or signals to tokens and decode them again, each at its own size, and say how much was lost.",
    )
    text = "files of what the model was trained on: images, recordings, or series in .npy or .csv; or folders of them"
    parser.add_argument("files", metavar="FILES", nargs="+", help=text)
    text = "folder of the results; nothing in it is overwritten"
    option(parser, "--out", text, metavar="DIR", required=True)
    text = "write NAME-maps.webp, too: original, reconstruction, tokens and uncertainty side by side"
    switch(parser, "--maps", text)
    add_spending(parser)
    add_strict(parser)
    return parser


Reconstruct = Callable[[Path, Loaded, Path], float]
"""Writes what a model makes of one file to another; returns a figure in dB."""


def _kind(loaded: Loaded, maps: bool) -> tuple[Reconstruct, Collection[str], str, str]:
    """How to reconstruct what the model was trained on, its files' suffixes and kind, and what the decibels are of."""
    from ..data.audio import AUDIO_SUFFIXES
    from ..data.decode import image_suffixes
    from ..data.series import SERIES_SUFFIXES

    scale = loaded.scale
    if scale is None:
        return partial(_reconstruct, maps=maps), image_suffixes(), "image", "PSNR"
    if scale.sample_rate is None:
        return _reconstruct_series, SERIES_SUFFIXES, ".npy or .csv file", "SNR"
    return _reconstruct_sound, AUDIO_SUFFIXES, "recording", "SNR"


def _find(names: Sequence[str], suffixes: Collection[str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """List the files named, and those with one of the suffixes in the folders named; then what is not there."""
    from ..data.folders import walk

    files: list[Path] = []
    missing: list[tuple[Path, str]] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            listing = walk(path)
            files += [path / name for name in listing.files if Path(name).suffix.lower() in suffixes]
            missing += [(path / name, reason) for name, reason in listing.skipped]
        elif path.is_file():
            files.append(path)
        else:
            missing.append((path, not_a_file(path)))
    return list(dict.fromkeys(files)), missing


def _reconstruct(file: Path, loaded: Loaded, target: Path, maps: bool) -> float:
    """Write the reconstruction of one image, and NAME-maps.webp beside it if asked for; return its PSNR."""
    from ..data.decode import decode
    from ..errors import require
    from ..evaluation.maps import code_colours, look, strip
    from ..evaluation.pictures import from_pixels
    from ..tokens.writing import image_file

    seen = look(loaded.model, file.name, from_pixels(decode(file, loaded.channels)), **loaded.spend)
    write_bytes(target, image_file(seen.reconstruction))
    if maps:
        row, buffer = strip(seen, code_colours(loaded.model)), io.BytesIO()
        require("PIL.Image", "data").fromarray(row).save(buffer, format="WEBP", quality=90)
        write_bytes(target.with_name(f"{target.stem}-maps.webp"), buffer.getvalue())
    return seen.decibels


def _reconstruct_sound(file: Path, loaded: Loaded, target: Path) -> float:
    """Write the reconstruction of a recording as a 16-bit WAV file; return the SNR in dB."""
    from ..data.audio import read_header, read_samples, to_channels, wav_bytes

    assert loaded.scale is not None
    header = read_header(file)
    if header.rate != loaded.scale.sample_rate:
        raise ValueError(
            f"it is at {header.rate} Hz, and the model was trained at {loaded.scale.sample_rate} Hz; resample it"
        )
    samples = to_channels(read_samples(file, 0, header.frames), loaded.channels)
    result = _through(samples, loaded)
    write_bytes(target, wav_bytes(result, header.rate))
    return _snr(samples, result)


def _reconstruct_series(file: Path, loaded: Loaded, target: Path) -> float:
    """Write the reconstruction of an .npy file in its shape, or of a .csv file (its columns of numbers, no header).

    Returns the SNR in dB over all series of the file.
    """
    import numpy as np

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
    results = [_through(one, loaded) for one in series]
    if table:
        buffer = io.BytesIO()
        np.savetxt(buffer, results[0].T, fmt="%.9g", delimiter=",")
        write_bytes(target, buffer.getvalue())
    else:
        shape = read_npy(file, "").shape
        write_bytes(target, npy_bytes(np.stack(results).reshape(shape)))
    return _snr(np.concatenate(series, 1), np.concatenate(results, 1))


def _through(signal: NDArray[np.float32], loaded: Loaded) -> NDArray[np.float32]:
    """A signal (channels, T) through the tokenizer, the last sample repeated up to a whole token; in its own units."""
    import numpy as np
    import torch

    from ..tokens.writing import in_own_units

    assert loaded.scale is not None
    padded = np.pad(signal, ((0, 0), (0, -signal.shape[1] % loaded.downsample)), mode="edge")
    device = next(loaded.model.parameters()).device
    unit = torch.from_numpy(loaded.scale.to_unit(padded))[None].to(device)
    result = loaded.model.reconstruct(unit, **loaded.spend)
    return in_own_units(result[0], loaded.scale)[:, : signal.shape[1]]


def _snr(signal: NDArray[np.float32], result: NDArray[np.float32]) -> float:
    from ..evaluation.signals import snr

    exact = signal.astype("float64")
    energy = float(((exact - exact.mean(1, keepdims=True)) ** 2).sum())
    return snr(energy, float(((exact - result) ** 2).sum()))

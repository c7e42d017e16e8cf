"""``gmvq reconstruct``: image files to tokens and back, each at its own size, as PNG files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Loaded, load, parser_for_model, say

if TYPE_CHECKING:
    from torch import Tensor


def run(argv: Sequence[str]) -> int:
    """Reconstruct; return 0, or 1 if an image could not be read."""
    options = _parser().parse_args(list(argv))
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is a folder, but {out} is a file")
    files, failed = _find(options.images)
    if not files and not failed:
        raise ValueError(f"there is no image in {', '.join(options.images)}")
    loaded = load(options)
    from ..evaluation.metrics import psnr

    errors: list[float] = []
    width = max((len(str(file)) for file in files), default=0)
    for file in files:
        try:
            mse, target = _reconstruct(file, loaded, out)
        except ValueError as error:
            failed.append((file, str(error)))
            continue
        errors.append(mse)
        print(f"{file!s:<{width}}  {psnr(mse):6.2f} dB  {target}")
    if errors:
        mean = sum(psnr(mse) for mse in errors) / len(errors)
        print(f"{len(errors)} reconstructed, mean PSNR {mean:.2f} dB")
    for file, reason in failed:
        say(f"failed: {file}: {reason}")
    if failed:
        say(f"{len(failed)} of {len(failed) + len(errors)} images could not be reconstructed")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "reconstruct",
        "Encode images to tokens and decode them again, each at its own size, and say how much was lost.",
    )
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder of the PNG files; nothing in it is overwritten"
    )
    return parser


def _find(names: Sequence[str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """List the files named, and those with the suffix of an image in the folders named; then what is not there."""
    from ..errors import require

    suffixes = require("PIL.Image", "data").registered_extensions()
    files: list[Path] = []
    missing: list[tuple[Path, str]] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
            files += sorted(file for file in inside if file.suffix.lower() in suffixes)
        elif path.is_file():
            files.append(path)
        else:
            missing.append((path, "there is no such file"))
    return list(dict.fromkeys(files)), missing


def _reconstruct(file: Path, loaded: Loaded, out: Path) -> tuple[float, Path]:
    """Write the reconstruction of one image; return its mean squared error and its file.

    Raises:
        ValueError: the file cannot be decoded.
    """
    import torch

    from ..data.decode import decode
    from ..evaluation.metrics import per_image_mse
    from ..evaluation.pictures import png_bytes, to_picture

    pixels: Any = decode(file, loaded.channels)
    flat = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
    image = flat.view(pixels.height, pixels.width, loaded.channels).permute(2, 0, 1)[None].float() / 255
    device = next(loaded.model.parameters()).device
    padded = _pad(image, loaded.downsample).to(device)
    result = loaded.model.reconstruct(padded).float().cpu()[..., : image.shape[-2], : image.shape[-1]]
    picture = to_picture(result[0])
    target = _write_new(out, file.stem, png_bytes(picture[..., 0] if loaded.channels == 1 else picture))
    return float(per_image_mse(result, image)), target


def _pad(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until the sides of (1, C, H, W) are multiples."""
    from torch.nn.functional import pad

    height, width = image.shape[-2:]
    return pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _write_new(folder: Path, stem: str, data: bytes) -> Path:
    """Write a PNG file in one step under a name that is not taken: stem.png, stem-2.png, ..."""
    import os

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}.tmp"
    temporary.write_bytes(data)
    try:
        for target in _names(folder, stem):
            try:
                os.link(temporary, target)  # fails where the name is taken
            except FileExistsError:
                continue
            except OSError:  # a file system without hard links
                if target.exists():
                    continue
                os.replace(temporary, target)
            return target
    finally:
        temporary.unlink(missing_ok=True)
    raise AssertionError("the names do not end")


def _names(folder: Path, stem: str) -> Iterator[Path]:
    yield folder / f"{stem}.png"
    number = 2
    while True:
        yield folder / f"{stem}-{number}.png"
        number += 1

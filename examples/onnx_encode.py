"""Image files to tokens and back with onnxruntime, numpy and Pillow alone: neither torch nor gmvq is imported.

    gmvq export builtin:photos --format onnx --out exported    # or a model of yours
    python examples/onnx_encode.py exported photo.jpg other.png --out out

Writes NAME.npy, the indices (h, w) as int64, and NAME.png, what they decode to.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image


class OnnxTokenizer:
    """The folder of ``gmvq export --format onnx``: images (B, C, H, W) to indices (B, h, w) and back.

    Example:
        >>> tokenizer = OnnxTokenizer("exported")
        >>> indices = tokenizer.encode(pixels)
        >>> restored = tokenizer.decode(indices)
    """

    def __init__(self, folder: str | Path) -> None:
        notes: dict[str, Any] = json.loads(Path(folder, "export.json").read_text(encoding="utf-8"))
        if notes["format"] != "onnx":
            raise ValueError(f"{folder} holds an export of the format {notes['format']}, not of onnx")
        self.channels: int = notes["signature"]["channels"]
        self.downsample: int = notes["signature"]["downsample"]
        self.least: int = notes["signature"].get("least", 2)
        self._encoder = onnxruntime.InferenceSession(
            str(Path(folder, "encoder.onnx")), providers=["CPUExecutionProvider"]
        )
        self._decoder = onnxruntime.InferenceSession(
            str(Path(folder, "decoder.onnx")), providers=["CPUExecutionProvider"]
        )

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        """Indices of images with values in [0, 1], whose sides are multiples of ``downsample``, at least ``least``.

        The graph itself cannot refuse other sizes: it would cut them without a word.
        """
        if any(size % self.downsample or size < self.least * self.downsample for size in images.shape[2:]):
            raise ValueError(
                f"sides must be multiples of {self.downsample}, at least {self.least * self.downsample}, "
                f"got {images.shape}"
            )
        return self._encoder.run(None, {"images": images})[0]

    def decode(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images of indices, clipped to [0, 1]."""
        return np.clip(self._decoder.run(None, {"indices": indices})[0], 0.0, 1.0)


def read(file: Path, channels: int) -> NDArray[np.float32]:
    """An image file as (1, C, H, W), float32 in [0, 1]."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)[None]


def pad(images: NDArray[np.float32], step: int, least: int) -> NDArray[np.float32]:
    """Repeat the last row and column until the sides are multiples of ``step``, at least ``least`` of them."""
    missing = [max(least * step - size, -size % step) for size in images.shape[2:]]
    return np.pad(images, ((0, 0), (0, 0), *((0, number) for number in missing)), mode="edge")


def write(file: Path, image: NDArray[np.float32]) -> None:
    """Write (C, H, W) in [0, 1] as PNG."""
    pixels = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file)


def main() -> int:
    """Run on the command line's images; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="folder written by gmvq export --format onnx")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write to (default: out)")
    options = parser.parse_args()
    tokenizer = OnnxTokenizer(options.folder)
    options.out.mkdir(parents=True, exist_ok=True)
    for file in options.images:
        pixels = read(file, tokenizer.channels)
        height, width = pixels.shape[2:]
        indices = tokenizer.encode(pad(pixels, tokenizer.downsample, tokenizer.least))
        restored = tokenizer.decode(indices)[..., :height, :width]
        np.save(options.out / f"{file.stem}.npy", indices[0])
        write(options.out / f"{file.stem}.png", restored[0])
        error = float(np.mean((restored - pixels) ** 2))
        print(f"{file}: {' x '.join(map(str, indices.shape[1:]))} tokens, mean squared error {error:.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

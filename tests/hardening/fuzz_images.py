"""Pictures of every mode and format that PIL writes, whole and damaged, and headers that promise too much."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz_damage import BYTES, Bytes
from hypothesis import strategies as st
from PIL import Image

from gmvq.data.decode import MAX_PIXELS, UnreadableImageError, decode, header_shape

#: format -> modes that it can hold.
_MODES = {
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "I", "I;16", "F", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "ICO": ("RGBA",),
    "EPS": ("L", "RGB"),
}


@dataclass(frozen=True)
class Picture:
    """A picture as it is drawn: what is encoded, then how it is damaged."""

    format: str
    mode: str
    size: tuple[int, int]
    frames: int
    rotation: int
    damage: Bytes | None

    def data(self) -> bytes:
        """The encoded file."""
        width, height = self.size
        random = np.random.default_rng(width * 100 + height)
        frames = []
        for _ in range(self.frames):
            rgb = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
            if self.mode in ("I;16", "I"):
                wide = random.integers(0, 65536, (height, width))
                frames.append(Image.fromarray(wide.astype(np.uint16 if self.mode == "I;16" else np.int32)))
            elif self.mode == "F":
                frames.append(Image.fromarray(random.random((height, width), dtype=np.float32) * 1.2))
            elif self.mode == "LAB":
                frames.append(Image.frombytes("LAB", self.size, rgb.tobytes()))
            else:
                frames.append(rgb.convert(self.mode))
        stream = io.BytesIO()
        options: dict[str, object] = {}
        if self.frames > 1 and self.format in ("GIF", "PNG", "WEBP", "TIFF"):
            options |= {"save_all": True, "append_images": frames[1:]}
        if self.rotation and self.format in ("JPEG", "PNG", "WEBP"):
            exif = Image.Exif()
            exif[0x0112] = self.rotation
            options["exif"] = exif
        frames[0].save(stream, self.format, **options)
        return stream.getvalue() if self.damage is None else self.damage(stream.getvalue())


_FORMATS = [(name, mode) for name, modes in _MODES.items() for mode in modes]
PICTURES = st.builds(
    lambda kind, size, frames, rotation, damage: Picture(kind[0], kind[1], size, frames, rotation, damage),
    st.sampled_from(_FORMATS),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 1, 1, 3]),
    st.integers(0, 9),
    st.one_of(st.none(), BYTES),
)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds a few rows of zeros of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min((width + 1) * height, 1 << 20))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def bmp_bomb(width: int, height: int) -> bytes:
    """A BMP that declares a size and ends after its header."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def gif_bomb(width: int, height: int) -> bytes:
    """A GIF that declares a size and has one small frame."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width % 65536, height % 65536, 0x80, 0, 0) + b"\0" * 6
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width % 65536, height % 65536, 0) + b"\x02\x02L\x01\0;"


def text_bomb(width: int, height: int) -> bytes:
    """A PNG with compressed text that unpacks to many megabytes."""
    text = _chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * (width % 97 + 1) * 1_000_000))
    return png_bomb(2, height % 7 + 1).replace(_chunk(b"IEND", b""), text + _chunk(b"IEND", b""))


_SIDES = st.sampled_from([0, 1, 3, 9000, 9460, 40000, 65535, 2**20, 2**31 - 1])
_BOMBS: tuple[Callable[[int, int], bytes], ...] = (png_bomb, bmp_bomb, gif_bomb, text_bomb)
BOMBS = st.builds(lambda make, width, height: make(width, height), st.sampled_from(_BOMBS), _SIDES, _SIDES)
IMAGES = st.tuples(
    st.one_of(PICTURES, PICTURES, PICTURES, BOMBS, st.binary(max_size=64)), st.sampled_from([1, 3])
)


def run_image(case: tuple[Picture | bytes, int], folder: Path) -> None:
    """Decode a picture from its bytes and from a file, and judge it by its header."""
    source, channels = case
    data = source.data() if isinstance(source, Picture) else source
    file = folder / "picture.png"
    file.write_bytes(data)
    problem = ""
    try:
        header_shape(file)
    except UnreadableImageError as error:
        problem = str(error)
    image = decode(data, channels)
    assert not problem, f"readable, and refused by its header: {problem}"
    assert image.mode == ("L" if channels == 1 else "RGB"), image.mode
    assert 0 < image.width * image.height <= MAX_PIXELS, image.size
    assert decode(file, channels).tobytes() == image.tobytes()
    if (
        isinstance(source, Picture) and source.damage is None and source.format != "ICO"
    ):  # which has sizes of its own
        sizes = {source.size, source.size[::-1]}
        assert image.size in sizes, f"{image.size} in place of {source.size}"

"""Emoji: the colour bitmaps inside a font, whole objects on white (Noto Color Emoji: 3,916 of 136 x 128)."""

from __future__ import annotations

import io
import struct
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line, require
from ..reading import read_bytes
from .decode import UnreadableImageError, decode
from .font_limits import MOST_FONT, check_font, check_strikes
from .pictures import Pictures
from .splits import Wanted, hash_split

NAME = "NotoColorEmoji.ttf"
_LARGEST_SIDE = 2048
_FONT_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "~/Library/Fonts"),
)
_JOINERS = {0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1, *range(0x1F3FB, 0x1F400)}
"""Code points that only vary a picture: joiner, variation selector, gender and direction, skin tones."""
#: Man, woman: person. Boy, girl: child. Old man, old woman: older person. Couples holding hands, with heart, with kiss.
_ALIKE = {
    **dict.fromkeys((0x1F468, 0x1F469), (0x1F9D1,)),
    **dict.fromkeys((0x1F466, 0x1F467), (0x1F9D2,)),
    **dict.fromkeys((0x1F474, 0x1F475), (0x1F9D3,)),
    **dict.fromkeys((0x1F46B, 0x1F46C, 0x1F46D), (0x1F9D1, 0x1F91D)),
    0x1F491: (0x1F9D1, 0x2764),
    0x1F48F: (0x1F9D1, 0x2764, 0x1F48B),
}


def find_font() -> Path:
    """Find Noto Color Emoji among the fonts of this machine."""
    for folder in _FONT_FOLDERS:
        found = next(Path(folder).expanduser().rglob(NAME), None)
        if found is not None:
            return found
    raise FileNotFoundError(
        f"{NAME} is in none of {', '.join(_FONT_FOLDERS)}; install it with: "
        "apt install fonts-noto-color-emoji, or give the path of a font with colour bitmaps"
    )


def open_emoji(path: Path, wanted: Wanted) -> Pictures:
    """Open one split of a font's distinct bitmaps (its largest CBDT strike), each on white, padded to a square.

    The split goes by a fixed hash of what a glyph shows: variants in skin tone, gender and direction of one
    picture always fall into the same split.
    """
    fonts = require("fontTools.ttLib", "data")
    try:
        data = read_bytes(path, MOST_FONT)
        check_font(data)
        with fonts.TTFont(io.BytesIO(data), fontNumber=0, lazy=True) as font:
            if "CBDT" not in font:
                raise ValueError(f"it has no colour bitmaps (no CBDT table); use {NAME}")
            tables = (table for strike in font["CBLC"].strikes for table in strike.indexSubTables)
            check_strikes((span for table in tables for span in table.locations), len(data))
            strike = max(font["CBDT"].strikeData, key=len)
            distinct: dict[bytes, str] = {}
            for name, glyph in strike.items():
                bitmap = getattr(glyph, "imageData", b"")
                if bitmap:
                    distinct.setdefault(bitmap, name)
            groups = _groups(font, list(distinct.values()))
    # A damaged table makes fontTools raise almost anything.
    except Exception as error:
        raise ValueError(f"cannot read {path} as a font with colour bitmaps: {one_line(error)}") from error
    mode = "L" if wanted.channels == 1 else "RGB"
    return Pictures(
        read=partial(_glyph, list(distinct), mode, wanted.size, {}),
        rows=hash_split(groups, wanted.split, wanted.fractions),
        names=list(distinct.values()),
        description=f"{path.name} ({wanted.split}; split by what the glyph shows, variants together)",
        framing="whole",
    )


def _glyph(
    data: list[bytes], mode: str, size: int, decoded: dict[int, NDArray[np.uint8]], row: int
) -> NDArray[np.uint8]:
    """One bitmap at the size asked for; each is decoded once."""
    if row not in decoded:
        pil = require("PIL.Image", "data")
        glyph = decode(_png(data[row]), 1 if mode == "L" else 3)
        side = max(glyph.size)
        square = pil.new(mode, (side, side), "white")
        square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        scaled = square.resize((size, size), pil.Resampling.LANCZOS)
        decoded[row] = np.asarray(scaled).reshape(size, size, -1)
    return decoded[row]


def _png(data: bytes) -> bytes:
    """The same, if it is a PNG of the size of a glyph; else it would be laid on a square of any size."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise UnreadableImageError("the bitmap of the glyph is no PNG")
    if max(struct.unpack(">II", data[16:24])) > _LARGEST_SIDE:
        raise UnreadableImageError(
            f"the bitmap of the glyph is more than {_LARGEST_SIDE} pixels wide or high"
        )
    return data


def _groups(font: object, names: list[str]) -> list[str]:
    """Return for each glyph the code points of what it shows, without those that only vary the picture.

    Composed glyphs have no code point of their own: the ligatures of the GSUB table say what they stand for.
    """
    points = {name: point for point, name in font.getBestCmap().items()}  # pyright: ignore[reportAttributeAccessIssue]
    parts: dict[str, list[str]] = {}
    if "GSUB" in font:  # pyright: ignore[reportOperatorIssue]
        for lookup in font["GSUB"].table.LookupList.Lookup:  # pyright: ignore[reportIndexIssue]
            for table in lookup.SubTable:
                # Others than ligatures are not looked into.
                if getattr(table, "ExtensionLookupType", lookup.LookupType) != 4:
                    continue
                for first, ligatures in getattr(
                    getattr(table, "ExtSubTable", table), "ligatures", {}
                ).items():
                    for ligature in ligatures:
                        parts.setdefault(ligature.LigGlyph, [first, *ligature.Component])

    def shown(name: str, depth: int = 0) -> list[int]:
        if name in points or name not in parts or depth > 8:
            return [points[name]] if name in points else []
        return [point for part in parts[name] for point in shown(part, depth + 1)]

    groups: list[str] = []
    for name in names:
        every = {same for point in shown(name) for same in _ALIKE.get(point, (point,))}
        kept = every - _JOINERS or every
        groups.append(" ".join(f"{point:X}" for point in sorted(kept)) or name)
    return groups

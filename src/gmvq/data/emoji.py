"""Emoji: the colour bitmaps inside a font, whole objects on white (Noto Color Emoji: 3,916 of 136 x 128).

A font of a few kilobytes can announce billions of glyphs, characters or ligatures, since its tables may point to one
place many times: ``check_font`` adds up the counts in its tables before fontTools believes them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from struct import unpack_from

import numpy as np
from numpy.typing import NDArray

from ..errors import as_value_error, require
from ..reading import check_unpacked, read_bytes
from .decode import UnreadableImageError, decode
from .pictures import Pictures
from .splits import Wanted, hash_split

NAME = "NotoColorEmoji.ttf"
_LARGEST_SIDE = 2048
#: Most bytes of a font; the largest in use have about 200 million.
_MOST_FONT = 512 << 20
_MOST_ENTRIES = 2_000_000
_SIGNATURES = (b"\0\1\0\0", b"OTTO", b"true", b"ttcf")
_FONT_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "~/Library/Fonts",
)  # fmt: skip
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
    # A damaged table makes fontTools raise almost anything.
    with as_value_error(f"cannot read {path} as a font with colour bitmaps", Exception):
        data = read_bytes(path, _MOST_FONT)
        check_font(data)
        with fonts.TTFont(io.BytesIO(data), fontNumber=0, lazy=True) as font:
            if "CBDT" not in font:
                raise ValueError(f"it has no colour bitmaps (no CBDT table); use {NAME}")
            tables = [table for strike in font["CBLC"].strikes for table in strike.indexSubTables]
            size = sum(max(0, end - start) for table in tables for start, end in table.locations)
            check_unpacked("the bitmaps of the font", size, len(data))
            strike = max(font["CBDT"].strikeData, key=len)
            distinct: dict[bytes, str] = {}
            for name, glyph in strike.items():
                if bitmap := getattr(glyph, "imageData", b""):
                    distinct.setdefault(bitmap, name)
            groups = _groups(font, list(distinct.values()))
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
    if max(unpack_from(">II", data, 16)) > _LARGEST_SIDE:
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
                chosen = getattr(getattr(table, "ExtSubTable", table), "ligatures", {})
                for first, ligatures in chosen.items():
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


def check_font(data: bytes) -> None:
    """Look at the tables of a TrueType or OpenType font that the reader of emoji uses."""
    if data[:4] not in _SIGNATURES:
        raise ValueError("not a TrueType or OpenType font; convert it to .ttf or .otf")
    try:
        tables = _tables(data)
        if tables.keys() & {"CFF ", "CFF2"}:
            raise ValueError(
                "fonts with PostScript outlines are not read; use one with TrueType outlines or bitmaps"
            )
        for tag, counts in (("CBLC", _glyphs), ("cmap", _characters), ("GSUB", _ligatures)):
            total = 0
            for count in counts(data, tables[tag]) if tag in tables else ():
                total += max(count, 1)
                if total > _MOST_ENTRIES:
                    raise ValueError(
                        f"the table {tag} of the font announces {total:,} entries or more, above the limit of "
                        f"{_MOST_ENTRIES:,}"
                    )
    except struct.error as error:
        raise ValueError("the font is cut short, or a table points outside of it") from error


def _tables(data: bytes) -> dict[str, int]:
    """Where every table of the first font of the file begins."""
    start = unpack_from(">I", data, 12)[0] if data[:4] == b"ttcf" else 0
    tables: dict[str, int] = {}
    for i in range(unpack_from(">H", data, start + 4)[0]):
        tag, _, offset, length = unpack_from(">4sIII", data, start + 12 + 16 * i)
        if offset + length > len(data):
            raise ValueError(f"the font's table {tag!r} lies outside of the file; is it complete?")
        tables[tag.decode("latin-1")] = offset
    return tables


def _glyphs(data: bytes, start: int) -> Iterator[int]:
    """The glyphs of every index of bitmaps in the table CBLC."""
    for strike in range(unpack_from(">I", data, start + 4)[0]):
        offset, _, number = unpack_from(">III", data, start + 8 + 48 * strike)
        for i in range(number):
            first, last = unpack_from(">HH", data, start + offset + 8 * i)
            yield last - first + 1


def _characters(data: bytes, start: int) -> Iterator[int]:
    """The characters of every group of the table cmap."""
    for i in range(unpack_from(">H", data, start + 2)[0]):
        at = start + unpack_from(">I", data, start + 4 + 8 * i + 4)[0]
        form = unpack_from(">H", data, at)[0]
        # The others hold as many characters as bytes, or 65,536.
        yield 65_536 if form not in (8, 10, 12, 13) else 1
        if form in (12, 13):
            for group in range(unpack_from(">I", data, at + 12)[0]):
                first, last = unpack_from(">II", data, at + 16 + 12 * group)
                yield last - first + 1
        elif form == 10:
            yield unpack_from(">I", data, at + 16)[0]


def _ligatures(data: bytes, start: int) -> Iterator[int]:
    """Of every lookup of the table GSUB the subtables, and of ligatures the components."""
    lookups = start + unpack_from(">H", data, start + 8)[0]
    for i in range(unpack_from(">H", data, lookups)[0]):
        lookup = lookups + unpack_from(">H", data, lookups + 2 + 2 * i)[0]
        kind, _, number = unpack_from(">HHH", data, lookup)
        for j in range(number):
            table = lookup + unpack_from(">H", data, lookup + 6 + 2 * j)[0]
            inner = kind
            if kind == 7:
                inner, further = unpack_from(">HI", data, table + 2)
                table += further
            yield from _of_subtable(data, table) if inner == 4 else (1,)


def _of_subtable(data: bytes, table: int) -> Iterator[int]:
    coverage = table + unpack_from(">H", data, table + 2)[0]
    form, number = unpack_from(">HH", data, coverage)
    yield number
    for r in range(number if form == 2 else 0):
        first, last = unpack_from(">HH", data, coverage + 4 + 6 * r)
        yield last - first + 1
    for k in range(unpack_from(">H", data, table + 4)[0]):
        chosen = table + unpack_from(">H", data, table + 6 + 2 * k)[0]
        for m in range(unpack_from(">H", data, chosen)[0]):
            ligature = chosen + unpack_from(">H", data, chosen + 2 + 2 * m)[0]
            yield unpack_from(">H", data, ligature + 2)[0]

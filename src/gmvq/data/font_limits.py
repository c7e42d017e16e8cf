"""What a font may make its reader do: the counts in its tables, added up before fontTools believes them.

A font of a few kilobytes can announce billions of glyphs, characters or ligatures, since its tables may point to one
place many times.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..reading import allowance

#: Most bytes of a font; the largest in use have about 200 million.
MOST_FONT = 512 << 20
_MOST_ENTRIES = 2_000_000
_SIGNATURES = (b"\0\1\0\0", b"OTTO", b"true", b"ttcf")
_NONE = (0, 0)


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
        for count in (
            _glyphs(data, *tables.get("CBLC", _NONE)),
            _characters(data, *tables.get("cmap", _NONE)),
        ):
            _check(sum(count))
        _check(sum(_ligatures(data, *tables.get("GSUB", _NONE))))
    except struct.error as error:
        raise ValueError("the font is cut short, or a table points outside of it") from error


def check_strikes(spans: Iterator[tuple[int, int]], size: int) -> None:
    """Raise ValueError if the bitmaps of a font, as its index places them, are more than ``allowance`` in all."""
    total = 0
    for start, end in spans:
        total += max(0, end - start)
        if total > allowance(size):
            raise ValueError(
                f"the bitmaps of the font are more than {allowance(size):,} bytes; their index repeats them"
            )


def _check(count: int) -> None:
    if count > _MOST_ENTRIES:
        raise ValueError(
            f"the tables of the font announce {count:,} entries or more, above the limit of {_MOST_ENTRIES:,}"
        )


def _at(form: str, data: bytes, offset: int) -> tuple[int, ...]:
    return struct.unpack_from(form, data, offset) if offset >= 0 else ()


def _tables(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset and length of every table of the first font of the file."""
    start = _at(">I", data, 12)[0] if data[:4] == b"ttcf" else 0
    tables: dict[str, tuple[int, int]] = {}
    for i in range(_at(">H", data, start + 4)[0]):
        tag, _, offset, length = struct.unpack_from(">4sIII", data, start + 12 + 16 * i)
        if offset + length > len(data):
            raise ValueError(f"the font's table {tag!r} lies outside of the file; is it complete?")
        tables[tag.decode("latin-1")] = (offset, length)
    return tables


def _limited(counts: Iterator[int]) -> Iterator[int]:
    """The same until they are too many in sum, each counted as one at least."""
    total = 0
    for count in counts:
        total += max(count, 1)
        yield max(count, 1)
        if total > _MOST_ENTRIES:
            return


def _glyphs(data: bytes, start: int, length: int) -> Iterator[int]:
    def counts() -> Iterator[int]:
        for strike in range(_at(">I", data, start + 4)[0] if length else 0):
            offset, _, number = _at(">III", data, start + 8 + 48 * strike)
            for i in range(number):
                first, last = _at(">HH", data, start + offset + 8 * i)
                yield last - first + 1

    return _limited(counts())


def _characters(data: bytes, start: int, length: int) -> Iterator[int]:
    def counts() -> Iterator[int]:
        for i in range(_at(">H", data, start + 2)[0] if length else 0):
            at = start + _at(">I", data, start + 4 + 8 * i + 4)[0]
            form = _at(">H", data, at)[0]
            # The others hold as many characters as bytes, or 65,536.
            yield 65_536 if form not in (8, 10, 12, 13) else 1
            if form in (12, 13):
                for group in range(_at(">I", data, at + 12)[0]):
                    first, last = _at(">II", data, at + 16 + 12 * group)
                    yield last - first + 1
            elif form == 10:
                yield _at(">I", data, at + 16)[0]

    return _limited(counts())


def _ligatures(data: bytes, start: int, length: int) -> Iterator[int]:
    """Of every lookup the subtables, and of ligatures the components."""

    def counts() -> Iterator[int]:
        lookups = start + _at(">H", data, start + 8)[0] if length else 0
        for i in range(_at(">H", data, lookups)[0] if length else 0):
            lookup = lookups + _at(">H", data, lookups + 2 + 2 * i)[0]
            kind, _, number = _at(">HHH", data, lookup)
            for j in range(number):
                table = lookup + _at(">H", data, lookup + 6 + 2 * j)[0]
                inner = kind
                if kind == 7:
                    inner, further = _at(">HI", data, table + 2)
                    table += further
                yield from _of_subtable(data, table) if inner == 4 else (1,)

    return _limited(counts())


def _of_subtable(data: bytes, table: int) -> Iterator[int]:
    coverage = table + _at(">H", data, table + 2)[0]
    form, number = _at(">HH", data, coverage)
    yield number
    for r in range(number if form == 2 else 0):
        first, last = _at(">HH", data, coverage + 4 + 6 * r)
        yield last - first + 1
    for k in range(_at(">H", data, table + 4)[0]):
        chosen = table + _at(">H", data, table + 6 + 2 * k)[0]
        for m in range(_at(">H", data, chosen)[0]):
            ligature = chosen + _at(">H", data, chosen + 2 + 2 * m)[0]
            yield _at(">H", data, ligature + 2)[0]

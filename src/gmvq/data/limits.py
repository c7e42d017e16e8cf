"""What Parquet and Arrow files unpack to, counted from their bytes before pyarrow believes what they announce.

A page of Parquet announces its size unpacked and its number of values; pyarrow asks for that much memory. Pages of a
few bytes may announce gigabytes, row groups may share one chunk, and a value in a dictionary may stand for every row.
``datasets`` maps Arrow files and writes them as they are; pyarrow would unpack a compressed batch as a whole. Whether
one is compressed stands in its message, a flatbuffer.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import as_value_error, require
from ..reading import allowance, check_plain, check_unpacked

_MOST_PAGES = 200_000
_MOST_HEADER = 1 << 16
#: Bytes of the kinds of values of which no header needs any: a byte, and a number with a point.
_WIDTHS = {3: 1, 7: 8}
#: Bytes that a value and its levels take in memory, where it is no text.
_VALUE = 16
_DICTIONARY = 2
#: Places of fields in the tables ``Message``, ``DictionaryBatch`` and ``RecordBatch`` of Arrow's format.
_HEADER, _DATA, _COMPRESSION = 2, 1, 3


class Page(NamedTuple):
    """What the header of a page says: its kind, sizes in bytes, and number of values."""

    kind: int
    unpacked: int
    packed: int
    values: int


def check_parquet(file: BinaryIO, where: object) -> None:
    """Raise unless a file's pages, read one after another, unpack to no more than ``allowance``."""
    parquet, arrow = require("pyarrow.parquet", "data"), require("pyarrow", "data")
    size = file.seek(0, os.SEEK_END)
    kinds = (arrow.ArrowException, ValueError, TypeError, OSError, MemoryError)
    with as_value_error(f"{where} is not a whole Parquet file", *kinds):
        metadata = parquet.read_metadata(file)
    chunks = [
        metadata.row_group(group).column(i)
        for group in range(metadata.num_row_groups)
        for i in range(metadata.num_columns)
    ]
    if sum(max(chunk.total_compressed_size, 0) for chunk in chunks) > size:
        raise ValueError(
            f"{where} is damaged: its column chunks are larger than the file, or lie over each other"
        )
    total, pages, repeated = 0, 0, set[str]()
    for chunk in chunks:
        found = _pages(file, chunk, size, where, _MOST_PAGES - pages)
        pages += len(found)
        values = sum(page.values for page in found if page.kind != _DICTIONARY)
        largest = max((page.unpacked for page in found if page.kind == _DICTIONARY), default=0)
        total += sum(page.unpacked for page in found) + _VALUE * values
        check_unpacked(where, total, size)
        if chunk.physical_type == "BYTE_ARRAY" and largest * values > allowance(size) // 4:
            repeated.add(chunk.path_in_schema)
    if repeated:
        _count_repeated(file, sorted(repeated), size, where)


def _pages(file: BinaryIO, chunk: Any, size: int, where: object, most: int) -> list[Page]:
    """Read the headers of the pages of a chunk."""
    # Of a column without values one of the two may be missing.
    offsets = [chunk.data_page_offset or 0, (chunk.has_dictionary_page and chunk.dictionary_page_offset) or 0]
    start = min((offset for offset in offsets if offset > 0), default=4)
    end = start + chunk.total_compressed_size
    if not 4 <= start <= end <= size:
        raise ValueError(f"{where} is damaged: a column chunk lies outside of the file")
    found: list[Page] = []
    while start < end:
        file.seek(start)
        try:
            page, length = _header(file.read(min(_MOST_HEADER, end - start)))
        except (IndexError, RecursionError) as error:
            raise ValueError(f"{where} is damaged: the header of a page cannot be read") from error
        if min(page) < 0 or length + page.packed > end - start:
            raise ValueError(f"{where} is damaged: a page is larger than its chunk")
        start += length + page.packed
        found.append(page)
        if len(found) > most:
            raise ValueError(
                f"{where} has more than {_MOST_PAGES:,} pages; write it again with larger row groups"
            )
    return found


def _header(data: bytes) -> tuple[Page, int]:
    """Parse the header of a page, a struct of thrift's compact protocol; return it and its length."""
    fields, length = _struct(data, 0, 0)
    inner = next((fields[key] for key in (5, 7, 8) if isinstance(fields.get(key), dict)), {})
    numbers = [fields.get(1), fields.get(2), fields.get(3), inner.get(1, 0)]
    return Page(*(number if isinstance(number, int) else -1 for number in numbers)), length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return value, at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _value(data, at, head & 15, depth)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of thrift's compact protocol; of what a page header does not use, None."""
    if depth > 8:
        raise RecursionError
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind in _WIDTHS:
        return None, at + _WIDTHS[kind]
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind in (9, 10):
        return None, _end_of_list(data, at, depth)
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise IndexError


def _end_of_list(data: bytes, at: int, depth: int) -> int:
    count, inner, at = data[at] >> 4, data[at] & 15, at + 1
    if count == 15:
        count, at = _varint(data, at)
    for _ in range(count):
        # In a list a truth value takes a byte.
        _, at = (None, at + 1) if inner in (1, 2) else _value(data, at, inner, depth + 1)
        if at > len(data):
            raise IndexError
    return at


def _count_repeated(file: BinaryIO, columns: list[str], size: int, where: object) -> None:
    """Add up the texts of columns whose dictionaries might stand for too much, some rows at a time."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    file.seek(0)
    total = 0
    with as_value_error(f"{where} is not a whole Parquet file", arrow.ArrowException, OSError, MemoryError):
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=8, columns=columns, use_threads=False):
            total += batch.get_total_buffer_size()
            check_unpacked(where, total, size)


def check_arrow(path: Path) -> None:
    """Raise ValueError unless a file is a stream of Arrow of which no batch is compressed."""
    arrow = require("pyarrow", "data")
    check_plain(path)
    told = as_value_error(f"{path} is no whole Arrow file", arrow.ArrowException, struct.error, OSError)
    with told, arrow.memory_map(str(path)) as file:
        packed = any(map(_is_compressed, arrow.ipc.MessageReader.open_stream(file)))
    if packed:
        raise ValueError(f"{path} is compressed, which datasets does not write, against decompression bombs")


def _is_compressed(message: Any) -> bool:
    if message.type not in ("record batch", "dictionary"):
        return False
    data = message.metadata.to_pybytes()
    batch = _follow(data, _field(data, _follow(data, 0), _HEADER))
    if message.type == "dictionary":
        batch = _follow(data, _field(data, batch, _DATA))
    return _field(data, batch, _COMPRESSION) != 0


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table stands in a flatbuffer; 0 where it is left out."""
    places = table - struct.unpack_from("<i", data, table)[0]
    at = 4 + 2 * number
    if at >= struct.unpack_from("<H", data, places)[0]:
        return 0
    offset = struct.unpack_from("<H", data, places + at)[0]
    return table + offset if offset else 0


def _follow(data: bytes, place: int) -> int:
    return place + struct.unpack_from("<I", data, place)[0]

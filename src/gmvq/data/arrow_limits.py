"""What an Arrow file of ``datasets`` unpacks to: nothing, as its batches have to be stored as they are.

``datasets`` maps such files into memory and writes them without compression; pyarrow would unpack a compressed batch
as a whole, of a kilobyte to gigabytes. Whether one is compressed stands in its message, a flatbuffer.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ..errors import one_line, require
from ..reading import check_plain

#: Places of fields in the tables ``Message``, ``DictionaryBatch`` and ``RecordBatch`` of Arrow's format.
_HEADER, _DATA, _COMPRESSION = 2, 1, 3


def check_arrow(path: Path) -> None:
    """Raise ValueError unless a file is a stream of Arrow of which no batch is compressed."""
    arrow = require("pyarrow", "data")
    check_plain(path)
    try:
        with arrow.memory_map(str(path)) as file:
            reader = arrow.ipc.MessageReader.open_stream(file)
            packed = any(map(_is_compressed, reader))
    except (arrow.ArrowException, struct.error, OSError) as error:
        raise ValueError(f"{path} is no whole Arrow file: {one_line(error, 200)}") from error
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

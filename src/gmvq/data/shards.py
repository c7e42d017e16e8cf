"""WebDataset shards: .tar files in which ``key.jpg``, ``key.cls``, ... are one sample, read where they lie.

Our own in place of the readers of ``webdataset`` and ``datasets``, which go through a shard from front to back: once
the place of every picture is known, shards are numbered rows like all other data. So a batch mixes all of them, and the
one sampler makes a run go on at the sample, bit for bit, and divides batches among any number of processes and workers.

Nothing is unpacked. Of a member its size is compared with the file, and its name is text and no path.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..reading import check_plain, open_input
from .decode import UnreadableImageError, decode, header_shape, image_suffixes, reason
from .folders import summary
from .pictures import Pictures
from .splits import Wanted, choose_split, files_by_split

if TYPE_CHECKING:
    from PIL.Image import Image

SHARD_SUFFIXES = (".tar", ".tgz", ".tar.gz")
_BLOCK = 512
#: Most bytes of a header that says more of the next member, such as a long name.
_MOST_NOTE = 1 << 16
#: Most digits of a size or a class.
_MOST_DIGITS = 18


class Member(NamedTuple):
    """A plain file in a shard: its name, and where its bytes lie."""

    name: str
    start: int
    size: int


@dataclass
class Shards:
    """The pictures of some shards, in the order of the files, and what cannot be used, with the reason.

    Of each picture ``places`` (N, 3) has the number of its shard, its first byte and its size; of its sample ``keys``
    has the name up to the first dot, and ``labels`` the class, where every one has one.
    """

    files: list[Path]
    places: NDArray[np.int64]
    keys: list[str]
    labels: NDArray[np.int64] | None
    skipped: list[tuple[str, str]]

    def shape(self, row: int) -> tuple[int, int]:
        """Height and width of a picture, of which its header alone is read."""
        arrow = require("pyarrow", "data")
        shard, start, size = self.places[row].tolist()
        try:
            check_plain(self.files[shard])
            with arrow.memory_map(str(self.files[shard])) as file:
                file.seek(start)
                return header_shape(arrow.BufferReader(file.read_buffer(size)))
        except (OSError, ValueError) as error:
            raise UnreadableImageError(reason(error)) from error

    def read(self, channels: int, row: int, reduce: int = 1) -> Image:
        """Decode a picture."""
        shard, start, size = self.places[row].tolist()
        try:
            with open_input(self.files[shard]) as file:
                file.seek(start)
                data = file.read(size)
        except (OSError, ValueError) as error:
            raise UnreadableImageError(reason(error)) from error
        if len(data) < size:
            raise UnreadableImageError("the shard has become shorter since it was opened")
        return decode(data, channels, reduce)


def open_shards(path: Path, files: Sequence[str], wanted: Wanted) -> Pictures:
    """Open one split of a shard, or of ``files`` in a folder, whose names and folders may name their split.

    A split that does not come with the set is taken out of train by the samples' keys. ``wanted.column`` is the suffix
    of the pictures, where a sample has several.
    """
    by_split = files_by_split(path, files)
    home = wanted.split if wanted.split in by_split else "train"
    # As they are now: a shard that was changed since is read again.
    stamps = tuple((file, check_plain(file), os.stat(file).st_mtime_ns) for file in by_split.get(home, ()))
    found = _index(stamps, wanted.column)
    if stamps and not found.keys:
        raise ValueError(f"no image in the shards of {path}: {summary(found.skipped)}")
    keys = {name: found.keys if name == home else [] for name in by_split}
    _, rows, rule = choose_split(keys, wanted)
    shards = found.places[:, 0].tolist()
    return Pictures(
        partial(found.read, wanted.channels),
        rows,
        [f"{found.files[shard].name}:{key}" for shard, key in zip(shards, found.keys, strict=True)],
        f"{path.name} ({wanted.split}; {len(stamps)} shards; {rule})",
        found.labels,
        skipped=list(found.skipped),
        shape_of=found.shape,
    )


@lru_cache(maxsize=4)
def _index(stamps: tuple[tuple[Path, int, int], ...], column: str | None) -> Shards:
    """Look through shards for their pictures, once for all splits that are taken out of them."""
    places, keys, labels = list[tuple[int, int, int]](), list[str](), list[int | None]()
    skipped: list[tuple[str, str]] = []
    for number, (path, size, _) in enumerate(stamps):
        with open_input(path) as file:
            try:
                for key, members in groupby(_members(file, size), lambda member: _key(member.name)):
                    if key is None:
                        continue
                    names = ((member.name.rpartition("/")[2], member) for member in members)
                    parts = {name.partition(".")[2].lower(): member for name, member in names}
                    picture = _picture_of(parts, column)
                    if picture is None:
                        problem = f"no {column or 'image'} among the suffixes {', '.join(parts)}"
                        skipped.append((f"{path.name}:{key}", problem[:200]))
                        continue
                    places.append((number, picture.start, picture.size))
                    keys.append(key)
                    labels.append(_class(file, parts.get("cls")))
            except ValueError as error:
                skipped.append((path.name, f"{error}; the samples in front of its last are used"))
    classes = [label for label in labels if label is not None]
    return Shards(
        [path for path, *_ in stamps],
        np.array(places, dtype=np.int64).reshape(-1, 3),
        keys,
        np.array(classes, dtype=np.int64) if len(classes) == len(labels) else None,
        skipped,
    )


def _members(file: BinaryIO, size: int) -> Iterator[Member]:
    """The plain files in an archive; ValueError where it is damaged or cut short.

    ``tarfile`` parses each header. It does not walk, as it takes the end of a file for that of the archive, and memory
    for what headers announce.
    """
    at, name, announced = 0, None, None
    while (header := _header(file, at)) is not None:
        start, length = at + _BLOCK, header.size if announced is None else announced
        if not 0 <= length <= size - start:
            raise ValueError(f"the member at byte {at:,} is larger than the file: it is cut short or damaged")
        at = start + -(-length // _BLOCK) * _BLOCK
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            if length > _MOST_NOTE:
                raise ValueError(f"the header at byte {start:,} has {length:,} bytes, above {_MOST_NOTE:,}")
            note = file.read(length)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                name = _text(note)
            else:
                told = _records(note)
                name, announced = told.get("path", name), int(told["size"]) if "size" in told else None
            continue
        if header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"the member at byte {start:,} is sparse; pack the shard again without --sparse")
        if header.isreg():
            yield Member(header.name if name is None else name, start, length)
        else:
            at = start  # a link, folder or device: nothing lies behind its header
        name = announced = None


def _header(file: BinaryIO, at: int) -> tarfile.TarInfo | None:
    """The header at byte ``at``; None where the archive ends."""
    file.seek(at)
    block = file.read(_BLOCK)
    if at == 0 and block[:2] == b"\x1f\x8b":
        raise ValueError("a compressed archive has no places to read from; unpack it to .tar with gunzip")
    if len(block) == _BLOCK and not any(block):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        what = "is no header of a tar archive" if block else "is the end of the file: it is cut short"
        raise ValueError(f"byte {at:,} {what}") from error


def _records(note: bytes) -> dict[str, str]:
    """The entries of a PAX header, each "LENGTH KEY=VALUE" and a line feed, its length included."""
    found: dict[str, str] = {}
    at, end = 0, len(note.rstrip(b"\0"))
    while at < end:
        digits = note[at : at + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        if not len(digits) + 2 < length <= end - at:
            raise ValueError("a PAX header is damaged")
        key, _, value = note[at + len(digits) + 1 : at + length - 1].partition(b"=")
        found[_text(key)] = _text(value)
        at += length
    if any(key.startswith("GNU.sparse") for key in found):
        raise ValueError("a member is sparse; pack the shard again without --sparse")
    if not found.get("size", "0").isdecimal() or len(found.get("size", "")) > _MOST_DIGITS:
        raise ValueError("a PAX header is damaged: its size is no number")
    return found


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _key(name: str) -> str | None:
    """What the members of a sample have in common: the name up to the first dot of its last part; None if hidden."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.split('.')[0]}".removeprefix("./") if base[:1] not in ("", ".") else None


def _picture_of(parts: dict[str, Member], column: str | None) -> Member | None:
    """The picture of a sample, by the suffix asked for, or the first that is a picture's."""
    if column is not None:
        return parts.get(column)
    return next((part for suffix, part in parts.items() if f".{suffix}" in image_suffixes()), None)


def _class(file: BinaryIO, member: Member | None) -> int | None:
    """The number in a member ``key.cls``; None if there is none."""
    if member is None or not 0 < member.size <= _MOST_DIGITS:
        return None
    file.seek(member.start)
    text = file.read(member.size).strip()
    return int(text) if text.isdigit() else None

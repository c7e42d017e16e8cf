"""Damage of every kind as hypothesis strategies: to bytes, to JSON-like values, to tensors, and to a folder's files."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

DELETE = "<delete this entry>"
#: Values that an entry of a file may have and should not; some are fine, and then the result has to be right.
ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            DELETE,
            None,
            True,
            False,
            0,
            -1,
            1,
            2,
            3,
            7,
            2**31,
            2**62,
            10**30,
            10**400,
            0.5,
            -2.5,
            float("nan"),
            float("inf"),
        ]
    ),
    st.sampled_from(
        ["", "x", "../../etc/passwd", "1e9", "GaussianMixtureVQ", "ResidualGMVQ", "\u0000", "é" * 40]
    ),
    st.sampled_from([[], {}, [1, 2], [[]], {"type": "Cosine"}, {"type": None}, {"a": {"b": 1}}]),
    st.integers(-(10**6), 10**6),
    st.text(max_size=12),
)


@dataclass(frozen=True)
class Bytes:
    """Damage to the bytes of a file."""

    kind: str
    place: float
    """Where, as a fraction of the size."""
    values: bytes

    def __call__(self, data: bytes) -> bytes:
        at = int(self.place * len(data))
        if self.kind == "truncate":
            return data[:at]
        if self.kind == "flip":
            flipped = bytearray(data)
            for number, value in enumerate(self.values):
                where = (at + 7919 * number) % max(len(data), 1)
                flipped[where : where + 1] = bytes([flipped[where] ^ (1 << value % 8)]) if data else b""
            return bytes(flipped)
        if self.kind == "overwrite":
            return data[:at] + self.values + data[at + len(self.values) :]
        if self.kind == "insert":
            return data[:at] + self.values + data[at:]
        if self.kind == "magic":
            return self.values + data[len(self.values) :]
        return self.values  # "replace"


BYTES = st.builds(
    Bytes,
    st.sampled_from(["truncate", "flip", "flip", "overwrite", "insert", "magic", "replace"]),
    st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.01)),
    st.binary(min_size=1, max_size=16),
)


def paths_of(value: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """Paths to the entries of nested dictionaries."""
    if isinstance(value, dict) and depth:
        for key, entry in value.items():
            yield (key,)
            yield from ((key, *rest) for rest in paths_of(entry, depth - 1))


@dataclass(frozen=True)
class Entries:
    """Other values in nested dictionaries."""

    changes: tuple[tuple[tuple[Any, ...], Any], ...]

    def __call__(self, value: dict[Any, Any]) -> dict[Any, Any]:
        changed = copy.deepcopy(value)
        for path, new in self.changes:
            inner: Any = changed
            for key in path[:-1]:
                inner = inner.get(key) if isinstance(inner, dict) else None
            if not isinstance(inner, dict):
                continue
            if isinstance(new, str) and new == DELETE:
                inner.pop(path[-1], None)
            else:
                inner[path[-1]] = copy.deepcopy(new)  # drawn values are shared between cases
        return changed


def entries(value: dict[Any, Any]) -> st.SearchStrategy[Entries]:
    """One to three odd values at entries of ``value``."""
    change = st.tuples(st.sampled_from(sorted(paths_of(value), key=str)), ODD_VALUES)
    return st.builds(Entries, st.lists(change, min_size=1, max_size=3).map(tuple))


@dataclass(frozen=True)
class Tensors:
    """Damage to one of a file's tensors."""

    kind: str
    which: int

    def __call__(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = dict(tensors)
        name = sorted(tensors)[self.which % len(tensors)]
        value = tensors[name]
        kinds = {
            "int64": lambda: value.long(),
            "bool": lambda: value > 0,
            "uint8": lambda: value.to(torch.uint8),
            "complex": lambda: value.to(torch.complex64),
            "float8": lambda: value.float().to(torch.float8_e4m3fn),
            "float64": lambda: value.double(),
            "half": lambda: value.half(),
            "more": lambda: torch.cat([value.reshape(-1), value.reshape(-1)[:1]]),
            "flat": lambda: value.reshape(-1),
            "axis": lambda: value[None].clone(),
            "empty": lambda: value.reshape(-1)[:0].clone(),
        }
        if self.kind == "drop":
            del changed[name]
        elif self.kind == "extra":
            changed[f"{name}.extra"] = value.clone()
        elif self.kind == "rename":
            changed[f"x{name}"] = changed.pop(name)
        else:
            changed[name] = kinds[self.kind]()
        return changed


TENSORS = st.builds(
    Tensors,
    st.sampled_from(
        [
            *(
                "drop",
                "extra",
                "rename",
                "int64",
                "bool",
                "uint8",
                "complex",
                "float8",
                "float64",
                "half",
                "more",
            ),
            *("flat", "axis", "empty"),
        ]
    ),
    st.integers(0, 100),
)

#: What may lie under a name in place of the file; a link that leads out of the folder has the whole file behind it.
PLACES = st.sampled_from(
    ["missing", "folder", "fifo", "link to it", "link to nothing", "link to itself", "empty"]
)


def replace(file: Path, what: str) -> None:
    """Put something else where a file is."""
    data = file.read_bytes()
    file.unlink()
    if what == "folder":
        file.mkdir()
    elif what == "fifo":
        os.mkfifo(file)
    elif what == "link to it":
        (file.parent.parent / "elsewhere").write_bytes(data)
        file.symlink_to("../elsewhere")
    elif what.startswith("link"):
        file.symlink_to(file.name if what == "link to itself" else "nowhere")
    elif what == "empty":
        file.touch()


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder = folder / "source"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def damage_json(file: Path, damage: Any) -> None:
    value = json.loads(file.read_bytes())
    file.write_text(json.dumps(damage(value) if isinstance(value, dict) else value))

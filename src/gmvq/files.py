"""Files that a reader sees whole or not at all, whatever happens to their writer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to, and rename it on leaving; an error leaves the old file.

    The folder is created if needed.

    Example:
        >>> with written_whole("figures.json") as file:
        ...     file.write_text("{}")
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with written_whole(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def save_figure(path: Path, figure: Any, dpi: float = 120) -> None:
    """Save a matplotlib figure, whole or not at all. The suffix of the name is the format."""
    with written_whole(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix.lstrip(".") or "png")


def write_new(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write a file in one step under a name that is not taken: stem.png, stem-2.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}.tmp"
    temporary.write_bytes(data)
    try:
        for target in _names(folder, stem, suffix):
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


def _names(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    yield folder / f"{stem}{suffix}"
    number = 2
    while True:
        yield folder / f"{stem}-{number}{suffix}"
        number += 1

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

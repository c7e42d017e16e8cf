"""``written_whole``: a file that a reader sees whole or not at all, whatever happens to its writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

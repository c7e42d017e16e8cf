"""Config files before they are parsed: those that would keep the parser busy for ever, or are no text, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import require
from ..reading import read_text

#: Most entries of a config once its aliases (*name) are written out; ours have about 40.
_MOST_ENTRIES = 100_000


def check_config_file(path: Path) -> None:
    """Raise ValueError unless a file is UTF-8 text whose aliases write out to a config of sensible size.

    What else is wrong with it is left to the parser, whose errors name the option.
    """
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}"
        ) from error
    yaml = require("yaml", "train")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        entries = 0 if root is None else _entries(root, {})
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply for a config") from error
    except yaml.YAMLError:
        return
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"{path} has aliases (*name) that contain themselves, or write out to more than {_MOST_ENTRIES:,} entries"
        )


def _entries(node: Any, known: dict[int, int]) -> int:
    """Number of nodes below ``node`` with aliases written out; more than allowed where one contains itself."""
    if id(node) not in known:
        known[id(node)] = _MOST_ENTRIES + 1  # until it is counted: only its own inside meets this
        inner = node.value if isinstance(node.value, list) else []
        below = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_entries(part, known) for part in below)
    return known[id(node)]

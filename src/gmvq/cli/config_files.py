"""Config files before they are parsed: those that would keep the parser busy for ever, or are no text, are refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import require
from ..reading import read_text

#: Most entries of a config once its aliases (*name) are written out; ours have about 40.
_MOST_ENTRIES = 100_000
NO_CLASSES = (
    "; a configuration names no classes, since that would run the code of their modules: give the name of a registered "
    "one, and --allow_import MODULE on the command line for a module of yours that registers it with Lightning"
)


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


class _NoNewModules:
    """A finder of modules that refuses those which jsonargparse asks for by a name in an option or configuration."""

    def find_spec(self, name: str, *_: object) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            if (
                frame.f_code.co_name == "import_object"
                and frame.f_globals.get("__package__") == "jsonargparse"
            ):
                raise ImportError(f"class_path: {name!r} is not imported{NO_CLASSES}")
            frame = frame.f_back


@contextmanager
def without_imports() -> Iterator[None]:
    """Parse options and configurations; modules that are not loaded yet cannot be named in them."""
    finder: Any = _NoNewModules()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _entries(node: Any, known: dict[int, int]) -> int:
    """Number of nodes below ``node`` with aliases written out; more than allowed where one contains itself."""
    if id(node) not in known:
        known[id(node)] = _MOST_ENTRIES + 1  # until it is counted: only its own inside meets this
        inner = node.value if isinstance(node.value, list) else []
        below = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_entries(part, known) for part in below)
    return known[id(node)]

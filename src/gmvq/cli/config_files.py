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
    """Raise ValueError unless a file is UTF-8 text of options whose aliases write out to a config of sensible size.

    What else is wrong with it is left to the parser, whose errors name the option.
    """
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}"
        ) from error
    root = _check(text, str(path))
    if root is not None and root.id != "mapping":
        raise ValueError(
            f"{path} holds no options, which are lines such as 'seed: 0'; gmvq fit --print_config writes all of them"
        )


def _check(text: str, name: str) -> Any:
    """Raise ValueError as ``check_config_file`` does; the root of the YAML, None if there is none."""
    yaml = require("yaml", "train")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        entries = 0 if root is None else _entries(root, {})
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply for a config") from error
    except yaml.YAMLError:
        return None
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"{name} has aliases (*name) that contain themselves, or write out to more than {_MOST_ENTRIES:,} entries"
        )
    return root


class _NoNewModules:
    """A finder of modules that refuses those which jsonargparse asks for by a name in an option or configuration."""

    def find_spec(self, name: str, *_: object) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            theirs = frame.f_globals.get("__package__") == "jsonargparse"
            if theirs and frame.f_code.co_name == "import_object":
                raise ImportError(f"class_path: {name!r} is not imported{NO_CLASSES}")
            frame = frame.f_back


@contextmanager
def parsing_safely() -> Iterator[None]:
    """Parse options, configurations and the files that they name, as in ``--model FILE``.

    No module is imported that is not loaded yet, no address is opened, and files are looked at as by
    ``check_config_file``. jsonargparse is as before afterwards, with what Lightning allows it: addresses.
    """
    jsonargparse, yaml = require("jsonargparse", "train"), require("yaml", "train")
    finder: Any = _NoNewModules()
    load, read = jsonargparse.get_loader("yaml"), jsonargparse.Path.read_text

    def checked(text: str) -> Any:
        if "*" in text:
            _check(text, "an option, or a file that it names,")
        return load(text)

    sys.meta_path.insert(0, finder)
    jsonargparse.set_loader("yaml", checked, (yaml.YAMLError,))
    jsonargparse.Path.read_text = lambda path: read_text(path.absolute)
    jsonargparse.set_parsing_settings(
        config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False
    )
    try:
        yield
    finally:
        jsonargparse.set_parsing_settings(config_read_mode_fsspec_enabled=True)
        jsonargparse.Path.read_text = read
        jsonargparse.set_loader("yaml", load, (yaml.YAMLError,))
        sys.meta_path.remove(finder)


def _entries(node: Any, known: dict[int, int]) -> int:
    """Number of nodes below ``node`` with aliases written out; more than allowed where one contains itself."""
    if id(node) not in known:
        known[id(node)] = _MOST_ENTRIES + 1  # until it is counted: only its own inside meets this
        inner = node.value if isinstance(node.value, list) else []
        below = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_entries(part, known) for part in below)
    return known[id(node)]

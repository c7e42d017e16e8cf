"""Public names of a package that are imported on first use: what a program does not use costs it no time or memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(
    package: str, where: Mapping[str, str], extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        where: public name -> module of the package that defines it.
        extra: what installs the packages that its modules import; one that is absent is a ``MissingExtraError``.
    """

    def find(name: str) -> Any:
        if name not in where:
            known = ", ".join(sorted(where))
            raise AttributeError(f"module {package!r} has no attribute {name!r}; public names: {known}")
        try:
            return getattr(importlib.import_module(f".{where[name]}", package), name)
        except ModuleNotFoundError as error:
            if extra is not None and error.name:
                from .errors import require

                require(error.name, extra)
            raise

    return find, lambda: sorted(where)

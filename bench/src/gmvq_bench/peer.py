"""Import the package of a rival, which a bare machine may lack: it then measures what it has."""

from __future__ import annotations

from types import ModuleType

from gmvq.errors import import_or_tell


def peer(module: str) -> ModuleType:
    """Import a module of a rival's package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    return import_or_tell(module, "pip install ./bench")

"""Import the package of a rival, which a bare machine may lack: it then measures what it has."""

from __future__ import annotations

import importlib
from types import ModuleType

from gmvq.errors import MissingExtraError


def peer(module: str) -> ModuleType:
    """Import a module of a rival's package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs the package '{module.split('.')[0]}', which is not installed; "
            "install it with: pip install ./bench"
        ) from error

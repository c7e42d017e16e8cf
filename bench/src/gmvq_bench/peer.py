"""Import the package of a rival, which a bare machine may lack: it then measures what it has."""

from __future__ import annotations

from types import ModuleType

from gmvq.errors import import_or_tell

#: Packages that ``pip install ./bench`` does not bring, as they are of no use without a GPU.
_APART = {"flash_kmeans": "pip install flash-kmeans"}


def peer(module: str) -> ModuleType:
    """Import a module of a rival's package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    return import_or_tell(module, _APART.get(module.split(".")[0], "pip install ./bench"))

"""``builtin:NAME``: the trained models of the package ``gmvq_models``, which stands in ``models`` of the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import MissingExtraError
from .pretrained import CONFIG

#: What names such a model wherever a model is asked for.
PREFIX = "builtin:"


def builtin_folder(name: str) -> Path:
    """The folder of ``"builtin:NAME"`` where pip put it; nothing is imported, written or downloaded."""
    spec = importlib.util.find_spec("gmvq_models")
    if spec is None:
        raise MissingExtraError(
            f"{name!r} is one of the trained models that are a package of their own, gmvq-models, which is not "
            "installed; in a clone of the repository: pip install ./models"
        )
    places = map(Path, spec.submodule_search_locations or ())
    folders = {file.parent.name: file.parent for place in places for file in place.glob(f"*/{CONFIG}")}
    folder = folders.get(name.removeprefix(PREFIX))
    if folder is None:
        known = ", ".join(f"{PREFIX}{one}" for one in sorted(folders))
        raise FileNotFoundError(f"there is no model {name!r} in the package gmvq-models; it has {known}")
    return folder

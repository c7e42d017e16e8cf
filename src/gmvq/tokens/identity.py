"""What makes two tries one run: the digest of the model, and the comparison of one run with another."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..models.digest import model_digest
from .manifest import Manifest

_PACKAGES = ("gmvq", "torch", "numpy", "pyarrow")


def digest_of(model: Any) -> str:
    """The hexadecimal digits of ``gmvq.models.digest.model_digest``: one number for a checkpoint and its exports."""
    return model_digest(model).removeprefix("sha256:")


def versions() -> dict[str, str | None]:
    """The versions of the packages that tokens depend on."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def check_same_run(old: Manifest, new: Manifest, folder: object) -> None:
    """Raise ValueError unless ``new`` goes on with ``old``; the message names everything that differs."""
    then, now = old.identity(), new.identity()
    changed = [f"{key} ({then[key]} there, {now[key]} here)" for key in now if then[key] != now[key]]
    if not changed and old.run == new.run:
        return
    raise ValueError(
        f"{folder} holds tokens of another run, and the two must not mix. What differs: "
        f"{'; '.join(changed) or 'the digests'}. Repeat the command as it was, give another --out, or delete the "
        "folder to encode anew"
    )

"""What a result depends on beside its inputs: the versions of Python and of packages, as records keep them."""

from __future__ import annotations

import platform
import sys
from importlib import metadata


def version_of(package: str) -> str | None:
    """The version of an installed package, or of ``"python"``; None if it is absent."""
    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # gmvq itself may run from its source tree
        return (
            getattr(sys.modules[__name__.partition(".")[0]], "__version__", None)
            if package == "gmvq"
            else None
        )


def versions(*packages: str) -> dict[str, str | None]:
    """The versions of several packages, by name."""
    return {package: version_of(package) for package in packages}

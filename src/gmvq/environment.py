"""What a result depends on beside its inputs: versions of Python and packages, as records keep them, and the cores."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from importlib import metadata


def version_of(package: str) -> str | None:
    """The version of an installed package, or of ``"python"``; None if it is absent."""
    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # gmvq itself may run from its source tree
        return getattr(sys.modules["gmvq"], "__version__", None) if package == "gmvq" else None


def versions(*packages: str) -> dict[str, str | None]:
    """The versions of several packages, by name."""
    return {package: version_of(package) for package in packages}


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_most_cores(asked: int, what: str) -> int:
    """``asked`` threads or processes, but no more than there are cores, with a warning: more would only wait."""
    there = cores()
    if asked > there:
        warnings.warn(
            f"{asked:,} {what} were asked for, and this machine has {there} cores: {there} are started",
            stacklevel=3,
        )
    return min(asked, there)

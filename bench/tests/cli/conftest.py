"""The trained run of ``small_run`` as fixtures, and the commands of this package, installed or not."""

from __future__ import annotations

from small_run import here, workplace

__all__ = ["here", "workplace"]

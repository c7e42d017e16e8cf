"""Rival quantizers behind the contract of the quantizers, for honest comparisons."""

from __future__ import annotations

from .registry import BASELINES, build_baseline, options_of

__all__ = ["BASELINES", "build_baseline", "options_of"]

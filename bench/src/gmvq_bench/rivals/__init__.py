"""Rival quantizers behind the contract of the quantizers, for honest comparisons."""

from __future__ import annotations

from .registry import BASELINES, Baseline, build_baseline

__all__ = ["BASELINES", "Baseline", "build_baseline"]

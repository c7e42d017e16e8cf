"""Rate against distortion: tokenizers over K and beta, their tokens truly coded, beside JPEG and WebP."""

from __future__ import annotations

from .codecs import codec_curve
from .points import Point, Study, measure_point
from .sweep import run_study

__all__ = ["Point", "Study", "codec_curve", "measure_point", "run_study"]

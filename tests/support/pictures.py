"""Pictures as bytes."""

from __future__ import annotations

import io

import numpy as np


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 pixels, (H, W) or (H, W, C)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()

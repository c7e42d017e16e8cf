"""Small pictures for the tests of gmvq.data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Make a smooth uint8 picture of shape (height, width, 3) that differs from seed to seed."""

    def make(seed: int = 0, height: int = 40, width: int = 48) -> np.ndarray:
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin((seed + 1) * 0.7 + (c + 1) * 0.11 * x + 0.07 * (c + 2) * y) for c in range(3)]
        return np.rint(127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)

    return make

"""What every test leaves as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Training flushes denormals for the whole process; hypothesis, for one, cannot draw floats then."""
    yield
    import torch

    torch.set_flush_denormal(False)

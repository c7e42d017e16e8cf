"""The trained run of ``small_run`` as fixtures, and what a run that begins from it is given."""

from __future__ import annotations

from typing import Any

import pytest
from small_run import here, workplace

from gmvq.training import ImageDataModule

__all__ = ["here", "workplace"]


@pytest.fixture
def data(here: Any) -> list[str]:
    """The options of the small run that do not say which model it is."""
    start = here.small.index("--model.dim")
    return [*here.small[:start], *here.small[here.small.index("--data.size") :]]


@pytest.fixture
def images(here: Any) -> ImageDataModule:
    """The small run's images."""
    return ImageDataModule(str(here.folder / "images.npy"), size=8, batch_size=8)

"""Each test of a ``kind`` runs with our class, and with that of vector-quantize-pytorch where it is installed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from gmvq import compat


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("vector_quantize_pytorch").VectorQuantize


@pytest.fixture(params=["ours", "theirs"])
def kind(request) -> Any:
    return compat.VectorQuantize if request.param == "ours" else request.getfixturevalue("peer")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Arguments that do nothing here are passed for theirs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "these arguments do nothing")
        yield

"""Codes by probability, other sizes, many codes: short studies of each part, and their tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gmvq import GaussianMixtureVQ
from gmvq.functional.kmeans import nearest_code
from gmvq_bench.markdown import render
from gmvq_bench.studies import codes

pytest.importorskip("vector_quantize_pytorch")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A layer of 16 codes on clusters; its latents stand in for those of a network."""
    rows = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(codes, "_latents", lambda model, split, images: rows)
    monkeypatch.setattr(codes, "SIZES", (8, 32))
    monkeypatch.setattr(codes, "USAGE", (64, 1000, 3000, 2))
    layer = GaussianMixtureVQ(4, 16)
    layer.init_codebook(rows)
    return SimpleNamespace(quantizer=layer)


def test_short_studies(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "ACCESS", ((50, 20, 4),))
    resized, used = codes.resize(model), codes.usage(model)
    before, fewer, more = resized["rows"]
    assert fewer["resize_codebook"] > before["before"] > more["resize_codebook"]
    for row in (fewer, more):
        assert row["resize_codebook"] < row["by hand"]
        assert row["resize_codebook"] < 1.1 * row["k-means anew"]
    assert used["start"]["usage"] > 0.9
    parts = {"access": {"rows": [codes.access(*codes.ACCESS[0])]}, "resize": resized, "usage": used}
    records = [{"method": name, "seed": 0, **part} for name, part in parts.items()]
    where = {"device": "a CPU", "threads": 1, "torch": "2", "vector-quantize-pytorch": "1"}
    text = render("codes.md.j2", codes={"command": "c", "environment": where, "records": records})
    assert text.count("\n| ") == 7
    assert "of 64 codes" in text.lower()


@pytest.mark.parametrize("size", [8, 40])
def test_by_hand_keeps_the_codes_that_are_used(size: int) -> None:
    z, codebook = torch.randn(500, 3), torch.randn(16, 3)
    got = codes._by_hand(z, codebook, size)
    assert len(got) == size
    counts = nearest_code(z, codebook)[0].bincount(minlength=16)
    kept = codebook[counts.topk(8).indices] if size == 8 else codebook
    assert torch.equal(got[: len(kept)], kept)

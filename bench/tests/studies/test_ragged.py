"""The study of ragged codes: what is saved at equal PSNR, and the bits of a point."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gmvq import RaggedGMVQ, build_autoencoder
from gmvq.quantizers.leaves import tree_bits
from gmvq_bench.comparison.methods import build_quantizer
from gmvq_bench.documents import values
from gmvq_bench.studies import records
from gmvq_bench.studies.ragged import SIZES, described, encoded, point

FIXED = [{"psnr": 20.0, "bits": 100.0}, {"psnr": 24.0, "bits": 300.0}, {"psnr": 22.0, "bits": 200.0}]


@pytest.mark.parametrize(
    ("psnr", "bits", "share"),
    [(23.0, 125.0, 0.5), (22.0, 200.0, 0.0), (20.0, 120.0, -0.2), (24.1, 1.0, None)],
)
def test_saved_is_against_the_curve_at_the_same_psnr(psnr: float, bits: float, share: float | None) -> None:
    assert values.saved(FIXED, {"psnr": psnr, "bits": bits}) == (
        share if share is None else pytest.approx(share)
    )


def test_methods_are_built_with_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RESULTS", Path(__file__).parents[2] / "results")
    for method, sizes in SIZES.items():
        run = described(method, sizes[0], seed=0, steps=10)
        assert (run["codebook_size"], run["steps"]) == (sizes[0], 10)
        assert isinstance(build_quantizer(run), RaggedGMVQ) == (method == "ragged")
        assert run["downsample"] == (8 if method == "fixed grid, 4 x 4" else 4)


def test_a_point_counts_codes_tree_and_error() -> None:
    torch.manual_seed(0)
    model: Any = build_autoencoder("tiny", quantizer=RaggedGMVQ(4, 16))
    images = [torch.rand(6, 3, 32, 32), torch.rand(2, 3, 32, 32)]
    with torch.no_grad():
        model.quantizer.init_codebook(model._latents(torch.cat(images)))
    model.eval()
    found = point(model, images, {"budget": 20})
    indices = model.encode(torch.cat(images), budget=20)
    counts, tree = model.quantizer.code_counts(indices).double(), tree_bits(indices, 3).double()
    assert found["codes"] == pytest.approx(float(counts.mean()))
    assert found["bits"] == pytest.approx(float((counts * math.log2(16) + tree).mean()))
    assert found["bits_entropy"] < found["bits"]
    error = (model.decode(indices) - torch.cat(images)).square().mean()
    assert found["mse"] == pytest.approx(float(error), rel=1e-4)
    equal = encoded(model, images[0], {"error": 0.5})
    z, read = model._latents(images[0]), model.quantizer.get_codes_from_indices(equal)
    left = (model.quantizer.standardized(z) - model.quantizer.standardized(read)).square().flatten(1).mean(1)
    assert (left <= 0.5 + 1e-4).all()
    assert model.quantizer.code_counts(equal).float().mean() < 60


def test_the_rows_of_the_table() -> None:
    def record(method: str, size: int, psnr: float, bits: float, spending: dict[str, Any]) -> dict[str, Any]:
        figures = {"codes": 1.0, "tree_bits": 0.0, "bits_entropy": bits, "psnr": psnr, "bits": bits}
        return {
            "method": method,
            "codebook_size": size,
            "seed": 0,
            "points": [{**figures, "spending": spending}],
        }

    fixed = [
        record("fixed grid", size, psnr, bits, {})
        for size, psnr, bits in ((2, 20.0, 100.0), (4, 22.0, 200.0))
    ]
    made = values.ragged({"records": [*fixed, record("ragged", 4, 21.0, 75.0, {"budget": 8})]}, Path())[
        "rows"
    ]
    assert [row["saved"] for row in made] == [None, None, [0.5]]
    assert made[-1]["spending"] == "budget 8"

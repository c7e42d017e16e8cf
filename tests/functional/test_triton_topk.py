"""The GPU kernel of the search against float64: values and codes at odd sizes, ties, limits, and through the search.

On a machine without a GPU it runs in Triton's interpreter, which has to be chosen before triton is imported: there
one test runs this file again, in a process of its own, and the cases are collected in that process only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gmvq.functional import search
from gmvq.functional.search import best_code, best_codes

pytest.importorskip("triton", reason="triton is not installed: its kernel is not used either")

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if CUDA and not INTERPRETED else "cpu")
if CUDA or INTERPRETED:
    from gmvq.functional import triton_topk

#: N, K, D, k: one of each, tiles that are not full, 2 to 256 features, in one or several steps, more tiles than parts.
SIZES = [
    (1, 1, 1, 1), (7, 5, 3, 4), (70, 130, 4, 4), (65, 70, 16, 2), (33, 200, 20, 16), (5, 700, 100, 4), (130, 64, 64, 8),
    (9, 130, 2, 3), (20, 70, 256, 4)
]  # fmt: skip


def case(test: Callable[..., None]) -> Callable[..., None]:
    """A test of the kernel, collected only where it can run."""
    test.__test__ = CUDA or INTERPRETED  # pyright: ignore[reportFunctionMemberAccess]
    return test


def test_every_case_in_the_interpreter() -> None:
    """Without a GPU: this file's cases, in a process that has chosen the interpreter."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"],
        env=env | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


test_every_case_in_the_interpreter.__test__ = not (CUDA or INTERPRETED)  # pyright: ignore


def problem(n: int, k: int, d: int, *, integers: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """query, codebook, bias: float32 on the device."""
    generator = torch.Generator().manual_seed(n + k + d)
    query, codebook = (torch.randn(*s, generator=generator) for s in ((n, d), (k, d)))
    if integers:
        query, codebook = (3 * query).round(), (2 * codebook).round()
    return query.to(DEVICE), codebook.to(DEVICE), -0.5 * codebook.square().sum(-1).to(DEVICE)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch) -> None:
    """Every buffer starts as NaN, or as an index out of range: what the kernel does not write shows."""

    def empty(*shape: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.full(
            shape, float("nan") if dtype.is_floating_point else -(1 << 30), dtype=dtype, device=DEVICE
        )

    if CUDA or INTERPRETED:
        monkeypatch.setattr(triton_topk, "empty", empty)


@case
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("processors", [1, 200])
def test_matches_topk_however_the_codes_are_divided(size, processors, monkeypatch) -> None:
    monkeypatch.setattr(triton_topk, "processors", lambda device: processors)
    *shape, k = size
    query, codebook, bias = problem(*shape)
    values, codes = triton_topk.topk(query, codebook, bias, k)
    logits = bias.double() + query.double() @ codebook.double().T
    torch.testing.assert_close(values.double(), logits.topk(k, -1).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.gather(1, codes), values.double(), rtol=1e-5, atol=1e-5)
    assert all(len(row.unique()) == k for row in codes), "no code twice"


@case
def test_rows_in_any_layout_and_codes_of_weight_zero() -> None:
    query, codebook, bias = problem(40, 90, 6)
    bias[::3] = torch.finfo(torch.float32).min
    strided = query.T.contiguous().T, torch.stack([codebook, codebook], -1)[..., 0], bias
    values, codes = triton_topk.topk(*strided, 4)
    assert (codes % 3 > 0).all()
    torch.testing.assert_close(values, (query @ codebook.T + bias).topk(4, -1).values)


@case
def test_more_equals_than_slots() -> None:
    query, codebook, bias = problem(30, 40, 5, integers=True)
    codebook, bias = codebook.repeat(8, 1), bias.repeat(8)  # equals lie in one tile and in several
    values, codes = triton_topk.topk(query, codebook, bias, 4)
    logits = query @ codebook.T + bias
    assert torch.equal(values, logits.topk(4, -1).values)
    assert torch.equal(logits.gather(1, codes), values)


@case
def test_a_row_that_is_no_number_changes_no_other() -> None:
    query, codebook, bias = problem(20, 70, 8)
    expected = triton_topk.topk(query, codebook, bias, 3)
    query[4], query[9, 2] = torch.nan, torch.inf
    found = triton_topk.topk(query, codebook, bias, 3)
    others = torch.tensor([i not in (4, 9) for i in range(20)], device=DEVICE)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours[others], theirs[others])
    assert ((found[1] >= 0) & (found[1] < 70)).all()


@case
def test_the_search_through_it_is_exact(monkeypatch) -> None:
    """Latents midway between codes, and no number at all: rounding decides nothing."""
    monkeypatch.setattr(search, "_fused", lambda query, k: True)
    _, codebook, bias = problem(1, 300, 16, integers=True)
    query = 0.5 * (codebook[:120] + codebook[torch.arange(120) + 7])
    exact = bias.double() + query.double() @ codebook.double().T
    values, codes, best = best_codes(query, codebook, bias, 4)
    assert torch.equal(best, exact.argmax(-1))
    assert torch.equal(best_code(query, codebook, bias)[1], best)
    torch.testing.assert_close(values, exact.topk(4, -1).values.float())
    torch.testing.assert_close(exact.gather(1, codes).float(), values)
    query[3] = torch.nan
    assert best_codes(query, codebook, bias, 4)[2][3] == 0
    assert best_codes(query[:0], codebook, bias, 4)[1].shape == (0, 4)


@case
def test_the_check_for_a_real_gpu_passes_here(monkeypatch) -> None:
    import gpu_check

    monkeypatch.setattr(search, "_fused", lambda query, k: query.dtype == torch.float32)
    monkeypatch.setattr(gpu_check, "PRECISIONS", {"highest": 2e-6})
    monkeypatch.setattr(gpu_check, "SIZES", gpu_check.SIZES[:4])
    assert [row for row in gpu_check.checks(DEVICE, large=False) if not row["ok"]] == []

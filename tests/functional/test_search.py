"""Exact search: equal to the dense answer in both of its forms, ties to the lowest code, nothing of size N x K."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq.functional import search
from gmvq.functional.search import best_code, best_codes, first_argmax

from .watch import largest_allocation


def case(n: int, k: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    query, codebook = (torch.randn(*s, generator=generator, dtype=dtype) for s in ((n, d), (k, d)))
    return query, codebook, -0.5 * codebook.square().sum(-1)


@pytest.mark.parametrize(
    ("n", "k", "d"), [(1, 1, 1), (33, 7, 3), (700, 300, 5), (40, 9001, 4), (17, 20_000, 16)]
)
@pytest.mark.parametrize("support", [1, 2, 5])
def test_search_equals_the_dense_search(n, k, d, support) -> None:
    query, codebook, bias = case(n, k, d, dtype=torch.float64)
    support = min(support, k)
    dense = torch.addmm(bias, query, codebook.T)
    values, codes, best = best_codes(query, codebook, bias, support)
    expected = dense.topk(support, -1)
    torch.testing.assert_close(values, expected.values)
    torch.testing.assert_close(dense.gather(1, codes), values)
    assert torch.equal(codes, expected.indices)
    assert torch.equal(best, dense.argmax(-1))
    value, index = best_code(query, codebook, bias)
    assert torch.equal(index, dense.argmax(-1))
    torch.testing.assert_close(value, dense.amax(-1))


@pytest.mark.parametrize("k", [12, 9000])
@pytest.mark.parametrize("support", [1, 2, 4])
def test_ties_go_to_the_lowest_code(k, support) -> None:
    query, codebook, _ = case(50, k, 3)
    codebook[k // 2 :] = codebook[: k - k // 2]  # every codeword twice, far apart
    bias = -0.5 * codebook.square().sum(-1)
    dense = torch.addmm(bias, query, codebook.T)
    _, _, best = best_codes(query, codebook, bias, support)
    assert (best < k // 2).all()
    assert (best_code(query, codebook, bias)[1] < k // 2).all()
    torch.testing.assert_close(dense.gather(1, best[:, None])[:, 0], dense.amax(-1))
    same = codebook[:1].expand(k, -1).contiguous()
    bias = -0.5 * same.square().sum(-1)
    assert (best_codes(query, same, bias, support)[2] == 0).all(), "all equal"
    assert (best_code(query, same, bias)[1] == 0).all()


def test_first_argmax_is_the_first() -> None:
    values = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0], [-1.0, -1.0, -1.0]])
    codes = torch.arange(3, dtype=torch.int32)
    assert first_argmax(values, values.amax(-1, keepdim=True), codes).tolist() == [1, 0, 0]


def test_tile_size_changes_nothing(monkeypatch) -> None:
    query, codebook, bias = case(100, 5000, 6, dtype=torch.float64)
    expected = best_codes(query, codebook, bias, 4)
    for tile in (512, 1000 // 32 * 32, 4096):
        monkeypatch.setattr(search, "_TILE_CODES", tile)
        for ours, theirs in zip(best_codes(query, codebook, bias, 4), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [3000, 30_000])
def test_no_tensor_of_size_n_k_exists(k) -> None:
    query, codebook, bias = case(4000, k, 4)
    for function in (lambda: best_code(query, codebook, bias), lambda: best_codes(query, codebook, bias, 8)):
        assert largest_allocation(function) <= 1 << 21 < 4000 * k

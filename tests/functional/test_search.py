"""Exact search: equal to the dense answer in both of its forms, ties to the lowest code, nothing of size N x K."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from watch import largest_allocation

from gmvq.functional import large_codebook
from gmvq.functional.search import best_code, best_codes
from gmvq.functional.selection import group_count, largest_k


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


@pytest.mark.parametrize("k", [12, 9000, 18_000])
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


def test_tile_size_changes_nothing(monkeypatch) -> None:
    query, codebook, bias = case(100, 5000, 6, dtype=torch.float64)
    expected = best_codes(query, codebook, bias, 4)
    monkeypatch.setattr(large_codebook, "pays", lambda *_: True)
    for tile in (512, 1000 // 32 * 32, 4096):
        monkeypatch.setattr(large_codebook, "TILE_CODES", tile)
        for ours, theirs in zip(best_codes(query, codebook, bias, 4), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [3000, 30_000])
def test_no_tensor_of_size_n_k_exists(k) -> None:
    query, codebook, bias = case(4000, k, 4)
    for function in (lambda: best_code(query, codebook, bias), lambda: best_codes(query, codebook, bias, 8)):
        assert largest_allocation(function) <= 1 << 21 < 4000 * k


@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("d", [4, 33])
def test_bfloat16_candidates_change_no_result(k, d) -> None:
    query, codebook, bias = case(60, 20_000, d)
    ours = best_codes(query, codebook, bias, k, half=True)
    for value, expected in zip(ours, best_codes(query, codebook, bias, k, half=False), strict=True):
        torch.testing.assert_close(value, expected)


def test_rows_that_bfloat16_cannot_tell_apart_are_searched_in_float32(monkeypatch) -> None:
    """Thousands of codewords closer together than its rounding: the bound must notice, and the answer stay exact."""
    query, codebook, _ = case(40, 20_000, 16)
    codebook = codebook[:1] + 1e-3 * codebook
    bias = -0.5 * codebook.square().sum(-1)
    shares = []
    in_half = large_codebook._search_in_half

    def watched(*arguments):
        found, share = in_half(*arguments)
        shares.append(share)
        return found, share

    monkeypatch.setattr(large_codebook, "_search_in_half", watched)
    values, _, best = best_codes(query, codebook, bias, 4, half=True)
    assert shares[0] > 0.9
    dense = torch.addmm(bias.double(), query.double(), codebook.double().T)
    torch.testing.assert_close(values.double(), dense.topk(4, -1).values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dense.gather(1, best[:, None])[:, 0], dense.amax(-1), rtol=1e-6, atol=1e-6)


def test_bfloat16_that_rounds_everything_one_way_does_not_hide_the_best_code() -> None:
    """All features of query and best code are halfway between two numbers of bfloat16; others look as good rounded."""
    query, codebook = torch.full((3, 64), 1 + 2.0**-8), torch.zeros(20_000, 64)
    codebook[-1] = 1 + 2.0**-8
    codebook[:1000] = 1 + 0.75 * 2.0**-8
    codebook[:1000, 0] = 1 + 2.0**-7
    assert (best_code(query, codebook, torch.zeros(20_000))[1] == 19_999).all()
    values, codes, best = best_codes(query, codebook, torch.zeros(20_000), 4, half=True)
    assert (codes[:, 0] == 19_999).all()
    assert (best == 19_999).all()
    torch.testing.assert_close(values[:, 0], query.square().sum(-1))


def test_the_rounding_bound_holds_for_every_logit() -> None:
    query, codebook, bias = case(50, 4000, 24)
    query[0] = codebook[0] = 1 + 2.0**-8  # every feature rounds down by as much as one can
    rounded = large_codebook._Factor.rounded(codebook, bias)
    columns = torch.nn.functional.pad(query.bfloat16(), (0, 2), value=1.0)
    exact = torch.addmm(bias.double(), query.double(), codebook.double().T)
    error = ((columns @ rounded.codebook.T).double() - exact).abs()
    unit = 2.0**-8
    norms = query.norm(dim=1)[:, None] * codebook.norm(dim=1)
    assert (error <= 1.05 * ((2 * unit + unit**2) * norms + unit * exact.abs())).all()


@pytest.mark.parametrize(("k", "d"), [(64, 4), (60, 64), (200, 3)])
def test_large_supports_and_codewords_stay_in_a_tile_of_memory(k, d) -> None:
    query, codebook, bias = case(300, 30_000, d)
    expected = torch.addmm(bias, query, codebook.T).topk(k, -1).values
    for half in (False, True):
        torch.testing.assert_close(
            best_codes(query, codebook, bias, k, half=half)[0], expected, rtol=1e-5, atol=1e-4
        )
        largest = largest_allocation(lambda half=half: best_codes(query, codebook, bias, k, half=half))
        assert largest <= max(1 << 21, codebook.numel() * 2)


@pytest.mark.parametrize("size", [20, 20_000])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_latents_give_some_code_and_no_index_out_of_range(size, bad) -> None:
    """Where the layer does not look for them, on an accelerator or compiled, they must not become a bad address."""
    query, codebook, bias = case(6, size, 33)
    query[2] = bad
    for indices in (best_code(query, codebook, bias)[1], best_codes(query, codebook, bias, 4)[2]):
        assert ((indices >= 0) & (indices < size)).all()
    others = torch.arange(6) != 2
    dense = torch.addmm(bias, query[others], codebook.T)
    assert torch.equal(best_code(query, codebook, bias)[1][others], dense.argmax(-1))


def test_codes_of_weight_zero_are_never_found() -> None:
    query, codebook, bias = case(10, 20_000, 32)
    bias[200:] = -torch.inf
    for half in (False, True):
        assert (best_codes(query, codebook, bias, 8, half=half)[1] < 200).all()
    assert (best_code(query, codebook[:300], bias[:300])[1] < 200).all()


def test_a_support_larger_than_the_codes_with_weight_repeats_none() -> None:
    query, codebook, bias = case(10, 30, 3)
    bias[2:] = -torch.inf
    codes = best_codes(query, codebook, bias, 4)[1]
    assert all(row.unique().numel() == 4 for row in codes)
    assert (codes[:, :2] < 2).all()


@pytest.mark.parametrize("k", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("size", [33, 64, 1024])
def test_selection_is_that_of_topk(size, k) -> None:
    rows = torch.randn(50, size, generator=torch.Generator().manual_seed(size))
    expected = rows.topk(k, -1)
    groups = group_count(size, k) if size % group_count(size, k) == 0 else size
    values, codes = largest_k(rows.T.contiguous(), groups, k)
    assert torch.equal(values.T, expected.values)
    assert torch.equal(codes.T, expected.indices)

"""Search by cells: what the bound leaves out is never among the best; where it leaves out little, all is searched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq.functional import cells
from gmvq.functional.referee import Referee
from gmvq.functional.search import best_code, best_codes

_SIZE, _GRID = 17_000, 64.0
Case = tuple[Tensor, Tensor, Tensor]


def clustered(rows: int, size: int, dim: int, dtype: torch.dtype = torch.float32) -> Case:
    """Latents and codewords around the same 200 points, on a grid on which float64 is exact."""
    generator = torch.Generator().manual_seed(dim)
    around = 2.0 * torch.randn(200, dim, generator=generator, dtype=dtype)
    query, codebook = (
        around[torch.randint(200, (n,), generator=generator)]
        + 0.3 * torch.randn(n, dim, generator=generator, dtype=dtype)
        for n in (rows, size)
    )
    query, codebook = (query * _GRID).round() / _GRID, (codebook * _GRID).round() / _GRID
    return query, codebook, -0.5 * codebook.square().sum(-1)


def dense(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias.double(), query.double(), codebook.double().T)


@pytest.fixture(autouse=True)
def taken(monkeypatch) -> list[bool]:
    """Few rows are enough; whether each search was one by cells."""
    monkeypatch.setattr(cells, "LEAST_ROWS", 1)
    search, notes = cells.search, []

    def noted(referee: Referee, k: int):
        found = search(referee, k)
        notes.append(found is not None)
        return found

    monkeypatch.setattr(cells, "search", noted)
    return notes


def check(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> None:
    logits = dense(query, codebook, bias)
    values, codes, best = best_codes(query, codebook, bias, k)
    assert torch.equal(best, logits.argmax(-1))
    assert all(len(row.unique()) == k for row in codes)
    torch.testing.assert_close(values.double(), logits.topk(k).values, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(logits.gather(1, codes), values.double(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 5, 40])
@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_best_codes_are_those_of_all_logits(k, dim, dtype, taken) -> None:
    check(*clustered(300, _SIZE, dim, dtype), k)
    assert taken == [True]


@pytest.mark.parametrize(
    "kind", ["uneven weights", "inner products", "features of uneven weight", "far from 0"]
)
def test_whatever_the_bias_is_made_of(kind, taken, monkeypatch) -> None:
    monkeypatch.setattr(cells, "_SHARE", 1.0)  # right also where it does not pay
    query, codebook, bias = clustered(200, _SIZE, 4)
    if kind == "uneven weights":
        bias += torch.randn(_SIZE, generator=torch.Generator().manual_seed(1))
    elif kind == "inner products":
        bias = torch.zeros(_SIZE)
    elif kind == "features of uneven weight":
        weights = torch.tensor([0.25, 1.0, 4.0, 16.0])
        query, bias = query * weights, -0.5 * (codebook.square() * weights).sum(-1)
    else:
        query, codebook = query + 8.0, codebook + 8.0
        bias = -0.5 * codebook.square().sum(-1)
    check(query, codebook, bias, 3)
    assert taken == [True]


def test_the_code_does_not_depend_on_batch_or_threads(taken) -> None:
    query, codebook, bias = clustered(600, _SIZE, 6)
    query[::2] = 0.5 * (codebook[:300] + codebook[300:600])
    expected = dense(query, codebook, bias).argmax(-1)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(best_code(query, codebook, bias)[1], expected)
    finally:
        torch.set_num_threads(before)
    parts = torch.cat([best_codes(part, codebook, bias, 2)[2] for part in query.split([1, 7, 92, 500])])
    assert torch.equal(parts, expected)
    assert all(taken)


def test_equal_codewords_and_midpoints_give_the_lowest_code(taken) -> None:
    query, codebook, _ = clustered(400, _SIZE, 3)
    codebook[_SIZE // 2 :] = codebook[: _SIZE // 2].flip(0)
    near = dense(query, codebook, -0.5 * codebook.square().sum(-1)).topk(6).indices
    query[::2] = 0.5 * (codebook[near[::2, 0]] + codebook[near[::2, 3]])
    check(query, codebook, -0.5 * codebook.square().sum(-1), 2)
    assert taken == [True]


@pytest.mark.parametrize("setting", ["highest", "medium"])
def test_no_rounding_within_the_bound_loses_a_code(setting, taken, monkeypatch) -> None:
    """Logits that say which codes are known, and which are near, moved by as much as a product may be off."""
    query, codebook, bias = clustered(300, _SIZE, 5)
    query[::2] = 0.5 * (codebook[:150] + codebook[150:300])
    expected = dense(query, codebook, bias).argmax(-1)
    known, tests = cells._known, cells._tests
    monkeypatch.setattr(cells, "_SHARE", 1.0)
    slack = Referee(query, codebook, bias).slack(query)

    def moved(made, rows, k):
        off = slack if len(rows) == len(query) else torch.zeros(len(rows))
        return known(made, rows, k) + off

    def halved(made, referee, rows, least):
        """Half of what the bound allows is taken away, which no product may need."""
        ours = tests(made, referee, rows, least)
        ours[:, -2] += 4.0 * referee.gamma * ours[:, -2].abs()
        return ours

    monkeypatch.setattr(cells, "_known", moved)
    monkeypatch.setattr(cells, "_tests", halved)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        assert torch.equal(best_code(query, codebook, bias)[1], expected)
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(taken) == 1


@pytest.mark.parametrize("dim", [1, 4, 24])
def test_the_test_keeps_every_cell_with_a_code_that_is_better_than_known(dim) -> None:
    query, codebook, bias = clustered(200, _SIZE, dim)
    referee = Referee(query, codebook, bias)
    made = cells._make(referee)
    assert made is not None
    rows = torch.nn.functional.pad(query, (0, 1), value=1.0)
    logits = dense(query, codebook, bias)
    home = torch.empty(_SIZE, dtype=torch.int64)
    home[made.codes] = torch.repeat_interleave(torch.tensor(made.starts).diff())
    for rank in (1, 3, 100):
        least = logits.topk(rank).values[:, -1]
        kept = (made.tests @ cells._tests(made, referee, rows, least.float()).T >= 0.0).T
        better = logits >= least[:, None]
        assert kept[:, home][better].all()
        if rank < 100:
            assert kept.float().mean() < 0.5, "and leaves out the others"


def test_latents_that_a_bound_cannot_tell_apart_are_searched_in_all_codes(taken) -> None:
    generator = torch.Generator().manual_seed(0)
    query, codebook = torch.randn(100, 32, generator=generator), torch.randn(_SIZE, 32, generator=generator)
    check(query, codebook, -0.5 * codebook.square().sum(-1), 2)
    query, codebook, bias = clustered(100, _SIZE, 3)
    same = codebook[:1].expand(_SIZE, -1).contiguous()
    assert (best_codes(query, same, bias[:1].expand(_SIZE).contiguous(), 2)[2] == 0).all()
    assert taken == [False, False]


def test_what_is_no_number_is_left_to_the_full_search(taken) -> None:
    query, codebook, bias = clustered(100, _SIZE, 3)
    expected = dense(query, codebook, bias).argmax(-1)
    broken = query.clone()
    broken[3], broken[60, 1] = torch.nan, torch.inf
    expected[[3, 60]] = 0
    assert torch.equal(best_code(broken, codebook, bias)[1], expected)
    bias[::2] = -torch.inf
    assert torch.equal(best_code(query, codebook, bias)[1], dense(query, codebook, bias).argmax(-1))
    for scale in (1e17, 1e30):
        found = best_code(query * scale, codebook * scale, torch.zeros(_SIZE))[1]
        assert torch.equal(found, dense(query * scale, codebook * scale, torch.zeros(_SIZE)).argmax(-1))
    assert taken[:2] == [False, False]


def test_few_rows_or_codes_do_not_pay(monkeypatch) -> None:
    monkeypatch.setattr(cells, "_make", None)  # would fail
    monkeypatch.setattr(cells, "LEAST_ROWS", 300)
    query, codebook, bias = clustered(299, _SIZE, 3)
    assert cells.search(Referee(query, codebook, bias), 1) is None
    query, codebook, bias = clustered(300, 16_000, 3)
    assert cells.search(Referee(query, codebook, bias), 1) is None

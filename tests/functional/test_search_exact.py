"""The code of a row is a function of that row alone, and the best in exact arithmetic, on and off the boundaries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from watch import largest_allocation

from gmvq.functional import exact, large_codebook, search
from gmvq.functional.noise import noise_keys
from gmvq.functional.referee import Referee
from gmvq.functional.sampling import find_support, mixture_sample, most_probable_codes
from gmvq.functional.search import best_code, best_codes

_GRID = 16.0


def case(n: int, k: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of which every second one is midway between two neighbours, on a grid on which float64 is exact."""
    generator = torch.Generator().manual_seed(k + d)
    codebook = (torch.randn(k, d, generator=generator) * _GRID).round() / _GRID
    query = (torch.randn(n, d, generator=generator) * 64 * _GRID).round() / (64 * _GRID)
    one = torch.randint(k, (n // 2,), generator=generator)
    distances = torch.cdist(codebook[one].double(), codebook.double())
    distances[torch.arange(n // 2), one] = torch.inf if k > 1 else 0.0
    query[::2] = 0.5 * (codebook[one] + codebook[distances.argmin(-1)])
    return query, codebook, -0.5 * codebook.square().sum(-1)


def truth(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    """The lowest of the best codes, by float64 logits: exact where the numbers are short."""
    return (bias.double() + query.double() @ codebook.double().T).argmax(-1)


def by_sampling(query: Tensor, codebook: Tensor, bias: Tensor, support: int | None) -> Tensor:
    """The indices of the eval forward."""
    return mixture_sample(
        *(query, codebook, bias, bias, None, noise_keys(0, query.device)),
        find_support(query, codebook, bias, support),
        estimator=None,
        temperature=torch.ones(()),
        noise=torch.ones(()),
    ).indices


@pytest.mark.parametrize("d", [2, 16, 64])
@pytest.mark.parametrize("k", [2, 16, 1024, 20_000])
def test_the_code_is_exact_whatever_the_batch_and_the_caller(k, d) -> None:
    query, codebook, bias = case(64, k, d)
    expected = truth(query, codebook, bias)
    sizes = [1, 7, 2, 30, 24]
    assert torch.equal(best_code(query, codebook, bias)[1], expected)
    for parts in (query.split(1), query.split(sizes), query.split(9)):
        assert torch.equal(torch.cat([best_code(part, codebook, bias)[1] for part in parts]), expected)
        assert torch.equal(torch.cat([best_codes(part, codebook, bias, 2)[2] for part in parts]), expected)
    assert torch.equal(most_probable_codes(query, codebook, bias), expected)
    for half in (False, True):
        assert torch.equal(best_codes(query, codebook, bias, min(k, 5), half=half)[2], expected)
    for support in (None, 2):
        assert torch.equal(by_sampling(query, codebook, bias, support), expected)


@pytest.mark.parametrize("k", [37, 1024, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_of_all_lengths(k, dtype) -> None:
    """Where float64 rounds too, the code is still the same in every batch, and the best but for that rounding."""
    generator = torch.Generator().manual_seed(k)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    codebook = torch.randn(k, 24, generator=generator, dtype=wide)
    query = torch.randn(200, 24, generator=generator, dtype=wide).to(dtype).to(wide)
    query[::2] = 0.5 * (codebook[:100] + codebook[(torch.arange(100) + 7) % k]) if k >= 100 else query[::2]
    query[50:60] *= 1e-6
    query[60:70] *= 1e6
    bias = -0.5 * codebook.square().sum(-1)
    whole = best_code(query, codebook, bias)[1]
    parts = torch.cat([best_code(part, codebook, bias)[1] for part in query.split([1, 99, 3, 97])])
    assert torch.equal(whole, parts)
    assert torch.equal(whole, best_codes(query, codebook, bias, 3)[2])
    logits = bias.double() + query.double() @ codebook.double().T
    short = logits.amax(-1) - logits.gather(1, whole[:, None])[:, 0]
    assert (short <= 1e-13 * logits.abs().amax(-1)).all()


@pytest.mark.parametrize("k", [9, 1024, 20_000])
def test_equal_codewords_give_the_lowest(k) -> None:
    query, codebook, _ = case(40, k, 16)
    codebook = codebook[torch.arange(k) % (k // 3)]
    bias = -0.5 * codebook.square().sum(-1)
    expected = truth(query, codebook, bias)
    assert (expected < k // 3).all()
    for function in (best_code, lambda *x: best_codes(*x, 3)[1:]):
        assert torch.equal(function(query, codebook, bias)[1], expected)


@pytest.mark.parametrize("k", [16, 1024, 20_000])
def test_all_codes_at_the_same_distance(k) -> None:
    """The corners of a cube around a latent, and latents on its planes of symmetry; nothing of size N x K x D."""
    bits = math.ceil(math.log2(k))
    codebook = (torch.arange(k)[:, None] >> torch.arange(bits) & 1) * 2.0 - 1.0
    query = torch.randint(-1, 2, (50, bits), generator=torch.Generator().manual_seed(0)).float() / 3
    query[:20] = 0.0
    bias = torch.zeros(k)
    expected = truth(query, codebook, bias)
    assert torch.equal(best_code(query, codebook, bias)[1], expected)
    assert torch.equal(best_codes(query, codebook, bias, 2)[2], expected)
    assert torch.equal(by_sampling(query, codebook, bias, None), expected)


@pytest.mark.parametrize("k", [16, 1000, 20_000])
def test_rows_that_are_no_numbers_get_code_0_and_change_no_other(k) -> None:
    query, codebook, bias = case(30, k, 16)
    expected = truth(query, codebook, bias)
    query[3], query[4, 2], query[5, 7] = torch.nan, torch.inf, -torch.inf
    expected[3:6] = 0
    for indices in (best_code(query, codebook, bias)[1], best_codes(query, codebook, bias, 2)[2]):
        assert torch.equal(indices, expected)


def test_huge_numbers_whose_logits_overflow() -> None:
    query, codebook, bias = case(30, 200, 16)
    expected = truth(query, codebook, bias)
    for scale in (1e19, 1e30):
        found = best_code(query * scale, codebook * scale, torch.zeros(200))[1]
        assert torch.equal(found, truth(query * scale, codebook * scale, torch.zeros(200)))
    small = 2.0**-110
    assert torch.equal(best_code(query * small, codebook, bias * small)[1], expected)


@pytest.mark.parametrize("k", [16, 1024, 20_000])
def test_codes_without_weight_or_number_are_never_the_best(k) -> None:
    query, codebook, bias = case(30, k, 16)
    bias[::2] = -torch.inf
    assert torch.equal(best_code(query, codebook, bias)[1], truth(query, codebook, bias))
    assert (best_code(query, codebook, torch.full_like(bias, -torch.inf))[1] == 0).all()
    codebook[1] = torch.nan
    expected = truth(query, codebook.nan_to_num(), bias.index_fill(0, torch.tensor([1]), -torch.inf))
    assert torch.equal(best_code(query, codebook, bias)[1], expected)


def test_a_codeword_far_away_hides_no_tie() -> None:
    query, codebook, bias = case(60, 1024, 16)
    codebook[5] = 4096.0
    bias[5] = -0.5 * 16 * 4096.0**2
    assert torch.equal(best_code(query, codebook, bias)[1], truth(query, codebook, bias))


def test_threads_do_not_matter() -> None:
    query, codebook, bias = case(3000, 1024, 64)
    expected = best_code(query, codebook, bias)[1]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(best_code(query, codebook, bias)[1], expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_products_of_fewer_digits_do_not_matter(setting) -> None:
    query, codebook, bias = case(100, 1024, 64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        slack = Referee(query, codebook, bias).slack(query)
        assert torch.equal(best_code(query, codebook, bias)[1], truth(query, codebook, bias))
    finally:
        torch.set_float32_matmul_precision(before)
    assert (slack > 10 * Referee(query, codebook, bias).slack(query)).all()


@pytest.mark.parametrize("k", [100, 1024, 20_000])
def test_no_rounding_within_the_bound_changes_a_code(k, monkeypatch) -> None:
    """Logits moved at random by as much as the bound says that a product may be off."""
    query, codebook, bias = case(200, k, 64)
    query[1::2] += 1e-3 * torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    expected = best_code(query, codebook, bias)[1]
    referee = Referee(query, codebook, bias)
    tiles, maxima = search._tiles, large_codebook._group_maxima

    def off(logits: Tensor, slack: Tensor) -> Tensor:
        return logits + 0.9 * slack * torch.randint(-1, 2, logits.shape)  # the rest is what products round

    def moved_tiles(*arguments):
        for rows, logits, groups in tiles(*arguments):
            yield rows, off(logits, referee.slack(query[rows])), groups

    def moved_maxima(rows, factor, group):
        sizes = (large_codebook._maxima_of(values, group) for values in (referee.lengths, referee.sizes))
        return off(maxima(rows, factor, group), referee.slack_of(rows, *sizes))

    monkeypatch.setattr(search, "_tiles", moved_tiles)
    monkeypatch.setattr(large_codebook, "_group_maxima", moved_maxima)
    for _ in range(3):
        assert torch.equal(best_code(query, codebook, bias)[1], expected)
        assert torch.equal(best_codes(query, codebook, bias, 3)[2], expected)


@pytest.mark.parametrize("d", [1, 3, 64, 500])
def test_the_bound_holds_for_every_logit(d) -> None:
    query, codebook, bias = case(50, 400, d)
    query += torch.randn(50, d, generator=torch.Generator().manual_seed(2))
    referee = Referee(query, codebook, bias)
    error = ((query @ codebook.T + bias).double() - (query.double() @ codebook.double().T + bias)).abs()
    bound = referee.slack_of(query, referee.lengths, referee.sizes).T
    assert (error <= bound).all()
    assert (bound <= referee.slack(query)[:, None] * (1 + 1e-6)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 5, 64, 1000])
def test_pieces_are_the_whole_and_their_products_exact(d, dtype) -> None:
    generator = torch.Generator().manual_seed(d)
    a, b = (torch.randn(2, 7, d, generator=generator, dtype=torch.float64) * 3.0).exp().to(dtype)
    a[0] = 0.0
    pieces = exact._pieces(a)
    largest = a.abs().amax(-1, keepdim=True)
    assert ((pieces[0] + pieces[1] + pieces[2] - a.double()).abs() <= 2.0**-52 * largest).all()
    for x in pieces:
        for y in exact._pieces(b):
            sums = [math.fsum((x[1] * y[1]).tolist()), float(x[1] @ y[1]), float((x[1] * y[1]).sum())]
            assert sums[0] == sums[1] == sums[2]


def test_ties_need_no_memory_of_all_pairs() -> None:
    query, codebook = torch.zeros(4000, 16), torch.ones(3000, 16)
    assert largest_allocation(lambda: best_code(query, codebook, torch.zeros(3000))) <= 1 << 21

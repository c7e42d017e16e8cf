"""Memory of known allocations, interleaved rounds, floors that do the products they claim."""

from __future__ import annotations

import pytest
import torch

from gmvq_bench.speed.contestants import Case
from gmvq_bench.speed.floors import bandwidth, best_tile, bytes_to_move, floor_calls, matmul_floor
from gmvq_bench.speed.measure import Timing, busy, cores_of_others, extra_memory, from_changes, interleaved

CPU = torch.device("cpu")
MIB = 1 << 20


def test_memory_of_a_known_pattern() -> None:
    def call() -> list[torch.Tensor]:
        a = torch.empty(8 * MIB, dtype=torch.uint8)
        b = torch.empty(4 * MIB, dtype=torch.uint8)
        del a
        c = torch.empty(2 * MIB, dtype=torch.uint8)
        return [b, c]

    call()
    memory = extra_memory(call, CPU)
    assert (memory.peak, memory.kept, memory.transient) == (12 * MIB, 6 * MIB, 8 * MIB)


def test_memory_counts_the_backward_and_its_gradients() -> None:
    x = torch.randn(256, 1024, requires_grad=True)

    def call() -> list[torch.Tensor]:
        y = x.exp()
        return list(torch.autograd.grad(y.sum(), [x]))

    call()
    memory = extra_memory(call, CPU)
    assert memory.kept == pytest.approx(x.nbytes, rel=0.01)
    assert 2 * x.nbytes <= memory.peak <= 3.1 * x.nbytes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], (0, 0, 0)),
        ([(1, 5), (1, -5)], (5, 0, 5)),
        ([(1, 5), (2, 7), (1, -5)], (12, 7, 5)),
        # an address used again: the second allocation there stays
        ([(1, 5), (1, -5), (1, 3)], (5, 3, 5)),
        # the peak of what passes is not at the peak of all
        ([(1, 6), (1, -6), (2, 4), (3, 4), (3, -4)], (8, 4, 6)),
        # memory of before the call is released in it
        ([(9, -4), (1, 5), (1, -5)], (1, -4, 5)),
    ],
)
def test_memory_from_changes(changes: list[tuple[int, int]], expected: tuple[int, int, int]) -> None:
    memory = from_changes(changes)
    assert (memory.peak, memory.kept, memory.transient) == expected


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    timings, failures = interleaved(calls, CPU, seconds=0.0, at_least=8, at_most=8)
    assert not failures
    assert order[:6] == list("aabbcc"), "warm-up"
    rounds = [order[i : i + 3] for i in range(6, len(order), 3)]
    assert all(sorted(names) == list("abc") for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1, "each in another order"
    for timing in timings.values():
        assert timing.repetitions == 8
        assert 0 < timing.min_ms <= timing.median_ms <= timing.max_ms


def test_a_failing_call_is_reported_and_the_others_go_on() -> None:
    def fail() -> None:
        raise RuntimeError("out of memory\nwith details")

    timings, failures = interleaved({"bad": fail, "good": lambda: None}, CPU, seconds=0.0)
    assert failures == {"bad": "RuntimeError: out of memory"}
    assert timings.keys() == {"good"}


def test_timing_is_the_median() -> None:
    assert Timing.of([0.003, 0.001, 0.009]) == Timing(3.0, 1.0, 9.0, 3)


@pytest.mark.parametrize("tile", [(64, 256), (33, 70), (7, 1000)])
def test_the_floor_does_its_products(tile: tuple[int, int]) -> None:
    """Counted as floating-point operations of matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    case = Case("train", 100, 210, 8)
    for products in (1, 3):
        with FlopCounterMode(display=False) as counter:
            matmul_floor(case, products, tile)()
        assert counter.get_total_flops() == products * 2 * 100 * 210 * 8


def test_floors_are_positive() -> None:
    case = Case("train", 64, 128, 8)
    calls, tiles = floor_calls(case)
    assert calls.keys() == tiles.keys() == {"matmul x 1", "matmul x 3"}
    timings, _ = interleaved(calls, CPU, seconds=0.0)
    assert all(timing.min_ms > 0 for timing in timings.values())
    assert best_tile(case, 1) in {(64, 256), *tiles.values()}
    assert floor_calls(Case("search", 64, 128, 8))[0].keys() == {"matmul x 1"}
    rates = bandwidth(CPU, megabytes=1, repetitions=1)
    assert min(rates["copy"], rates["triad"]) > 0


def test_bytes_to_move() -> None:
    n, k, d = 10, 20, 4
    latents, codebook, indices = 4 * n * d, 4 * k * d, 8 * n
    assert bytes_to_move(Case("search", n, k, d)) == latents + codebook + indices
    assert bytes_to_move(Case("eval", n, k, d)) == 2 * latents + codebook + indices
    assert bytes_to_move(Case("train", n, k, d)) == 4 * latents + 2 * codebook + indices
    assert bytes_to_move(Case("eval", n, k, d, "bf16")) == latents + codebook + indices


def test_cores_of_others_are_what_is_not_ours() -> None:
    start, end = (100.0, 10.0, 0.0), (115.0, 20.0, 10.0)
    assert cores_of_others(start, end) == pytest.approx(0.5)
    assert cores_of_others(start, (105.0, 20.0, 10.0)) == 0.0
    assert cores_of_others(None, end) is None
    assert cores_of_others(start, start) is None
    now = busy()
    assert now is None or now[0] >= now[1] > 0

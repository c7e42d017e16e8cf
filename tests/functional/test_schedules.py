"""Schedules: a table of values, the value without progress, refused arguments."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.functional.schedules import Constant, Cosine, Exponential, Linear, known_zero

TABLE = [
    (Constant(0.7), {None: 0.7, 0.0: 0.7, 1.0: 0.7}),
    (Linear(1.0, 0.0), {None: 1.0, 0.0: 1.0, 0.25: 0.75, 1.0: 0.0}),
    (Linear(0.0, 4.0, idle=3.0), {None: 3.0, 0.5: 2.0}),
    (Linear(1.0, 3.0, begin=0.5, finish=0.75), {0.0: 1.0, 0.5: 1.0, 0.625: 2.0, 0.75: 3.0, 1.0: 3.0}),
    (Linear(1.0, 3.0), {-0.5: 1.0, 1.5: 3.0}),
    (Cosine(2.0, 0.0), {0.0: 2.0, 0.5: 1.0, 0.25: 1.0 + math.sqrt(0.5), 1.0: 0.0}),
    (Exponential(1.0, 0.01), {None: 1.0, 0.0: 1.0, 0.5: 0.1, 1.0: 0.01}),
    (Exponential(0.5, 2.0, idle=1.0, finish=0.5), {None: 1.0, 0.25: 1.0, 0.5: 2.0, 0.9: 2.0}),
]


@pytest.mark.parametrize(("schedule", "values"), TABLE, ids=[repr(s) for s, _ in TABLE])
def test_values(schedule, values) -> None:
    for progress, expected in values.items():
        assert schedule(progress) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [Linear, Cosine, Exponential])
def test_ends_are_exact_and_the_path_is_monotonic(kind) -> None:
    schedule = kind(3.0, 0.5)
    values = [schedule(i / 50) for i in range(51)]
    assert values[0] == pytest.approx(3.0)
    assert values[-1] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)


def test_refused_arguments() -> None:
    for begin, finish in ((0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.0, 1.1)):
        with pytest.raises(ValueError, match="begin < finish"):
            Linear(0.0, 1.0, begin=begin, finish=finish)
    with pytest.raises(ValueError, match="positive ends"):
        Exponential(1.0, 0.0)


def test_schedules_are_values() -> None:
    assert Linear(0.0, 1.0) == Linear(0.0, 1.0)
    assert len({Constant(1.0), Constant(1.0), Constant(2.0)}) == 2


def test_zero_is_known_where_nothing_waits_for_it() -> None:
    assert known_zero(torch.tensor(0.0))
    assert not known_zero(torch.tensor(1e-3))
    assert not known_zero(torch.tensor(0.0, device="meta")), "another device"

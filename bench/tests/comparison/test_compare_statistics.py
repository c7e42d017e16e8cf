"""Intervals, paired tests and Holm's correction against hand computation, and who counts as a rival."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gmvq_bench.comparison.runs import finals, problem
from gmvq_bench.statistics import Paired, holm, mean_interval, paired

# 97.5 % quantiles of Student's t, from a printed table
T1, T2, T4 = 12.7062, 4.30265, 2.77645


def leaves_out_zero(test: Paired) -> bool:
    """Whether the interval in percent leaves out 0."""
    return test.percent_interval is not None and not test.percent_interval[0] <= 0 <= test.percent_interval[1]


def test_interval_by_hand():
    mean, half = mean_interval([1.0, 2.0, 3.0])  # s = 1
    assert mean == 2
    assert half == pytest.approx(T2 / math.sqrt(3), rel=1e-5)
    mean, half = mean_interval([2.0, 4.0, 4.0, 4.0, 6.0])  # s^2 = 8 / 4
    assert mean == 4
    assert half == pytest.approx(T4 * math.sqrt(2 / 5), rel=1e-5)


def test_interval_of_one_value_has_no_width_and_of_none_is_an_error():
    assert mean_interval([3.0]) == (3.0, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_paired_by_hand():
    """Differences -1, -2, -3: mean -2, s 1, t = -2 sqrt 3; with two degrees of freedom p has a closed form."""
    result = paired({0: 9.0, 1: 8.0, 2: 7.0, 5: 1.0}, {0: 10.0, 1: 10.0, 2: 10.0, 7: 2.0})
    assert result.seeds == (0, 1, 2)
    assert result.difference == -2
    assert result.half_width == pytest.approx(T2 / math.sqrt(3), rel=1e-5)
    assert result.percent == pytest.approx(-20)
    t = 2 * math.sqrt(3)
    assert result.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
    low, high = result.percent_interval or (0, 0)  # b does not vary, so Fieller's interval is the plain one
    assert low == pytest.approx(-20 - 10 * T2 / math.sqrt(3), rel=1e-4)
    assert high == pytest.approx(-20 + 10 * T2 / math.sqrt(3), rel=1e-4)


def test_fieller_ends_are_ratios_that_the_paired_test_just_rejects():
    a, b = {0: 3.1, 1: 2.7, 2: 3.3, 3: 2.9}, {0: 3.9, 1: 3.6, 2: 3.7, 3: 4.2}
    interval = paired(a, b).percent_interval
    assert interval is not None
    for end in interval:
        ratio = 1 + end / 100
        assert paired(a, {seed: ratio * y for seed, y in b.items()}).p == pytest.approx(0.05, abs=1e-9)


def test_paired_removes_what_seeds_share():
    seeds = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    result = paired({s: 0.9 * v for s, v in seeds.items()}, seeds)
    assert result.percent_interval == pytest.approx((-10, -10))
    assert leaves_out_zero(result)


def test_paired_with_one_seed_and_with_equal_values():
    one = paired({0: 2.0}, {0: 4.0})
    assert (one.percent, one.half_width, one.percent_interval, one.p) == (-50, None, None, None)
    assert not leaves_out_zero(one)
    same = paired({0: 2.0, 1: 3.0}, {0: 2.0, 1: 3.0})
    assert (same.difference, same.half_width, same.p) == (0, 0, 1)
    assert not leaves_out_zero(same)
    with pytest.raises(ValueError, match="no seed in common"):
        paired({0: 1.0}, {1: 1.0})


def test_interval_of_percent_is_left_out_where_the_mean_of_b_may_be_zero():
    assert paired({0: 1.0, 1: 1.0}, {0: 1.0, 1: -0.9}).percent_interval is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def run(method: str, seed: int, mse: float, **more: Any) -> dict[str, Any]:
    figures = {"test": {"mse": mse}, "error": None}
    return {"setting": "s", "method": method, "phase": "final", "seed": seed, **figures, **more}


SUITE = {
    "ours": "gm-vq",
    "seeds": [0, 1],
    "methods": {
        "gm-vq": {"quantizer": "gm-vq"},
        "gm-vq, noisy": {"quantizer": "gm-vq"},
        "vq": {"quantizer": "vq"},
        "fsq": {"quantizer": "fsq"},
        "late": {"quantizer": "late"},
        "elsewhere": {"quantizer": "vq", "settings": ["other"]},
        "ae": {"quantizer": "ae", "ceiling": True},
    },
}


def test_finals_leave_out_failed_runs_other_seeds_and_figures_that_are_not_finite():
    runs = [
        run("vq", 0, 1.0, error="RuntimeError: no"),
        run("vq", 1, math.nan),
        run("vq", 7, 1.0),
        run("vq", 0, 1.0, phase="tune"),
        run("unknown", 0, 1.0),
        {"setting": "s", "method": "fsq", "phase": "final", "seed": 0, "error": "the process died"},
    ]
    assert not any(finals({"suite": SUITE, "runs": runs}, "s").values())
    assert [problem(r) for r in runs[:2]] == ["RuntimeError: no", "its test MSE is nan"]

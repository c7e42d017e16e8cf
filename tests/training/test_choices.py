"""Schedules and estimators as text: there and back, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gmvq.functional.estimators import GumbelSoftmax, StraightThroughGumbel
from gmvq.functional.schedules import Constant, Cosine, Exponential, Linear
from gmvq.training.choices import as_plain, format_choice, parse_estimator, parse_schedule


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        (3, Constant(3.0)),
        ("3", Constant(3.0)),
        ("-1e-3", Constant(-1e-3)),
        ("Constant(2)", Constant(2.0)),
        ("Linear(0, 1)", Linear(0.0, 1.0)),
        ("cosine(start=1, end=0, finish=0.8)", Cosine(1.0, 0.0, finish=0.8)),
        ("Exponential(1, 0.1, idle=0.5)", Exponential(1.0, 0.1, idle=0.5)),
        ({"class_path": "gmvq.Linear", "init_args": {"start": 0, "end": 1}}, Linear(0.0, 1.0)),
        (Linear(0.0, 1.0), Linear(0.0, 1.0)),
    ],
)
def test_schedules(text: Any, schedule: Any) -> None:
    assert parse_schedule(text) == schedule
    assert parse_schedule(format_choice(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "estimator"),
    [
        ("GumbelSoftmax", GumbelSoftmax()),
        ("GumbelSoftmax()", GumbelSoftmax()),
        ("GumbelSoftmax(temperature=2)", GumbelSoftmax(temperature=Constant(2.0))),
        ("StraightThroughGumbel(Exponential(2, 0.1), noise=Cosine(1, 0))",
         StraightThroughGumbel(Exponential(2.0, 0.1), Cosine(1.0, 0.0))),
        ({"class_path": "GumbelSoftmax", "init_args": {"noise": "Linear(1, 0)"}},
         GumbelSoftmax(noise=Linear(1.0, 0.0))),
    ],
)  # fmt: skip
def test_estimators(text: Any, estimator: Any) -> None:
    assert parse_estimator(text) == estimator
    assert parse_estimator(format_choice(estimator)) == estimator


@pytest.mark.parametrize(
    "text",
    [
        *("Linear(1)", "Linear(0, 1, wat=2)", "Linear('a', 1)", "Linear(0, 1", "GumbelSoftmax()", "x.y()", "", "[1]"),
        *("__import__('os').system('true')", "(lambda: 1)()", "1 + 1j", "True", None, True, {"start": 1}),
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_without_running_it(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a number or a schedule"):
        parse_schedule(text)


def test_near_names_are_proposed() -> None:
    with pytest.raises(ValueError, match="did you mean GumbelSoftmax"):
        parse_estimator("GumbleSoftmax()")
    with pytest.raises(ValueError, match="Exponential needs positive ends"):
        parse_schedule("Exponential(1, 0)")


def test_plain_values_are_fit_for_json() -> None:
    estimator = GumbelSoftmax(Linear(1.0, 0.5), Constant(1.0))
    assert as_plain(estimator) == "GumbelSoftmax(temperature=Linear(1.0, 0.5), noise=1.0)"
    assert as_plain((0.9, 0.99)) == [0.9, 0.99]
    assert as_plain(Constant(1.0)) == 1.0

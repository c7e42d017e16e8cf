"""Progress on a terminal and in a log, and what versions are noted."""

from __future__ import annotations

import sys

import pytest
import torch

from gmvq import progress
from gmvq.environment import version_of, versions
from gmvq.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_of_a_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("images") as show:
        show(40, 100)  # what an earlier run did
        for seconds, done in ((110.0, 50), (116.0, 60), (120.0, 70), (130.0, 100)):
            clock[0] = seconds
            show(done, 100, "mse 0.1")
    assert capsys.readouterr().err.splitlines() == [
        "60 of 100 images  mse 0.1  1.2/s  32 s left",
        "100 of 100 images  mse 0.1  2.0/s",
    ]


def test_unknown_totals_long_times_and_quiet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    show, quiet = Progress("shards"), Progress("shards", quiet=True)
    for seconds, done, total in ((100.0, 0, None), (200.0, 10, None), (300.0, 20, 100), (400.0, 21, 10_000)):
        clock[0] = seconds
        show(done, total)
        quiet(done, total)
    assert capsys.readouterr().err.splitlines() == [
        "10 shards  0.1/s",
        "20 of 100 shards  0.1/s  13.3 min left",
        "21 of 10,000 shards  0.1/s  39.6 h left",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("batches") as show:
        show(0, 3)
        show(3, 3, "fine")
    err = capsys.readouterr().err
    assert "batches" in err
    assert "3/3" in err
    show(3, 3)  # after its end it does no harm


def test_versions() -> None:
    assert versions("python", "torch", "no-such-package") == {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "no-such-package": None,
    }
    assert version_of("gmvq")

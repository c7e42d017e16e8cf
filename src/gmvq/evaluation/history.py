"""Read ``history.jsonl``, one JSON object a line, as curves; a run that was killed leaves a readable file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..reading import is_number, parse_json, read_text


@dataclass(frozen=True)
class History:
    """Curves over training.

    Attributes:
        curves: name -> (steps, values), steps ascending, values finite.
        broken_lines: lines that are no JSON object with a step, skipped: usually 0, or 1 after a kill.
    """

    curves: dict[str, tuple[list[float], list[float]]]
    broken_lines: int = 0

    @property
    def last_step(self) -> int | None:
        """The highest step with a value, or None for an empty history."""
        return max((int(steps[-1]) for steps, _ in self.curves.values()), default=None)


def read_history(path: str | os.PathLike[str]) -> History:
    """Read the curves of a run; a missing file is an empty history.

    Any key may be missing on any line. A line that is no JSON object with a ``"step"``, such as one cut off
    in the middle, is counted and skipped. Where a resumed run repeats a step, the later line holds. Values
    that are not finite numbers are left out.
    """
    file = Path(path)
    points: dict[str, dict[float, float]] = {}
    broken = 0
    if file.is_file():
        for line in read_text(file, "replace").splitlines():
            if not line.strip():
                continue
            row = parse_line(line)
            if row is None:
                broken += 1
                continue
            step = float(row["step"])
            for name, value in row.items():
                if name != "step" and is_number(value):
                    points.setdefault(name, {})[step] = float(value)
    curves = {}
    for name, curve in points.items():
        steps = sorted(curve)
        curves[name] = (steps, [curve[step] for step in steps])
    return History(curves, broken)


def thin(steps: list[float], values: list[float], most: int = 500) -> tuple[list[float], list[float]]:
    """Replace a curve of more than ``most`` points by the means of equal runs (the last may be shorter)."""
    if len(steps) <= most:
        return steps, values
    starts = range(0, len(steps), math.ceil(len(steps) / most))
    sizes = np.diff([*starts, len(steps)])
    means = [np.add.reduceat(np.asarray(curve, float), starts) / sizes for curve in (steps, values)]
    return means[0].tolist(), means[1].tolist()


def parse_line(line: str) -> dict[str, Any] | None:
    """A line as its figures by name, "step" among them; None for one that is none."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and is_number(row.get("step")) else None

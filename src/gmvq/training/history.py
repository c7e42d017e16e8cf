"""``HistoryWriter``: every logged figure as one line of JSON in the run folder, for the report and for plots."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..evaluation.history import parse_line
from ..files import PathLike, open_append, telling_full_disk, write_text
from ..reading import read_text


class HistoryWriter(Logger):
    """Append what a run logs to ``history.jsonl``: one object a line, with the number of steps done as ``step``.

    A line is ``{"step": 20, "train/mse": 0.01, ...}`` or ``{"step": 250, "validation/mse": 0.008, ...}``. Each is
    written and flushed at once, so a run that is killed leaves a readable file. Only rank 0 writes.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line, without what is not finite; ``step`` counts from 0 and is written as the steps then done."""
        values = {
            name: round(value, 10) if abs(value) < 1 else value
            for name, value in metrics.items()
            if name != "epoch" and math.isfinite(value)
        }
        if values:
            with telling_full_disk(self.path), open_append(self.path) as file:
                file.write((json.dumps({"step": (step or 0) + 1, **values}) + "\n").encode())

    @rank_zero_only
    def keep_until(self, step: int) -> None:
        """Drop the lines after ``step``, and half lines: a run that goes on from there writes them again."""
        if not self.path.is_file():
            return
        lines = read_text(self.path, "replace").splitlines()
        kept = [line for line in lines if (row := parse_line(line)) and row["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))


def is_logged(trainer: Trainer, step: int) -> bool:
    """Whether Lightning logs the training step after which ``step`` steps are done."""
    interval: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (set by a helper)
    return interval > 0 and step % interval == 0

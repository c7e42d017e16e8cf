"""Where figures go: ``history.jsonl``, always, and loggers that an option names, with arguments where one wants others.

Only these three: any other class that a configuration names would run the code of its module.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..errors import import_or_tell, require
from ..evaluation.history import parse_line
from ..files import PathLike, open_append, real_path, telling_full_disk, write_text
from ..reading import read_text

_CLASSES: dict[str, type[Logger]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "csv": CSVLogger}
_WORDS = {"true": "tensorboard", "false": "none", "none": "none", **{name: name for name in _CLASSES}}
_PLACES = ("lightning.pytorch.loggers.", "pytorch_lightning.loggers.")

#: A logger's short name, or ``{class_path: ..., init_args: ...}``.
Choice = str | dict[str, Any]


def parse_loggers(option: str, value: object) -> Choice | list[Choice]:
    """What an option means: short names, and ``{class_path: ..., init_args: ...}`` where arguments are given.

    Raises:
        ValueError: there is no such logger.
    """
    if isinstance(value, list):
        return [_choice(*_read(option, one)) for one in value]
    return _choice(*_read(option, value))


def build_loggers(chosen: Choice | list[Choice], run_dir: Path, from_step: int) -> list[Logger]:
    """The loggers of a run that begins after ``from_step``; they write to its folder unless told otherwise.

    Raises:
        ImportError: the package of a logger is not installed.
        ValueError: a logger has no such argument.
    """
    entries = chosen if isinstance(chosen, list) else [chosen]
    read = [_read("logger", one) for number, one in enumerate(entries) if one not in entries[:number]]
    return [_build(kind, given, run_dir, from_step) for kind, given in read if kind != "none"]


def _read(option: str, value: object) -> tuple[str, dict[str, Any]]:
    """Short name and arguments of a logger."""
    given, arguments = value, dict[str, Any]()
    if isinstance(value, Mapping):
        # Arguments stand beside the class where options name them one by one.
        arguments = {name: one for name, one in value.items() if name not in ("class_path", "init_args")}
        inner = value.get("init_args") or {}
        given = value.get("class_path", "") if isinstance(inner, Mapping) else ""
        arguments |= inner if isinstance(inner, Mapping) else {}
    word = str(given)
    for place in _PLACES:
        word = word.removeprefix(place)
    kind = _WORDS.get(word.lower().removesuffix("logger"))
    if kind is None or (arguments and kind == "none"):
        raise ValueError(
            f"{option}: expected true, false, TensorBoardLogger, WandbLogger or CSVLogger, {{class_path: one of them, "
            f"init_args: {{...}}}}, or a list of these; got {value}"
        )
    return kind, arguments


def _choice(kind: str, arguments: dict[str, Any]) -> Choice:
    return {"class_path": _PLACES[0] + _CLASSES[kind].__name__, "init_args": arguments} if arguments else kind


def _build(kind: str, given: dict[str, Any], run_dir: Path, from_step: int) -> Logger:
    folder = Path(given.get("save_dir", run_dir))
    # In a folder that several runs share, each has one of its own.
    place = {"save_dir": folder, "name": run_dir.name if "save_dir" in given else ""}
    passed_on: Callable[..., Any] = CSVLogger
    if kind == "csv":
        # A file that is there would be written anew.
        ours = {**place, "version": f"csv-{from_step}" if from_step else "csv"}
    elif kind == "tensorboard":
        require("tensorboard", "train")
        passed_on = require("torch.utils.tensorboard", "train").SummaryWriter
        ours = {**place, "version": "tensorboard", "purge_step": from_step or None}
    else:
        passed_on = import_or_tell("wandb", "pip install wandb").init
        # WANDB_PROJECT, WANDB_MODE and so on do what they do everywhere; a run that goes on keeps its id.
        project = os.environ.get("WANDB_PROJECT", "gmvq")
        ours = {"save_dir": folder, "name": run_dir.name, "project": project}
        latest = folder / "wandb" / "latest-run"
        if from_step and latest.exists() and not given.keys() & {"id", "version"}:
            ours |= {"version": real_path(latest).name.rpartition("-")[2], "resume": "allow"}
    known = {*inspect.signature(_CLASSES[kind]).parameters, *inspect.signature(passed_on).parameters}
    known -= {"kwargs", "experiment"}
    if unknown := sorted(given.keys() - known):
        names = ", ".join(sorted(known))
        raise ValueError(f"logger: {_CLASSES[kind].__name__} has no argument {unknown[0]!r}; it has {names}")
    return _CLASSES[kind](**{**ours, **given})


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

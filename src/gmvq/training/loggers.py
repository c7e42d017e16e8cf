"""Loggers beside ``history.jsonl``: by a short name, or in Lightning's words, with arguments where one wants others.

Only these three: any other class that a configuration names would run the code of its module.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ..errors import import_or_tell, require
from ..files import real_path

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

"""What a run of training leaves so that it can be repeated, and the developers' warnings that users need not see."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import shlex
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runs import write_text

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def write_records(
    run_dir: Path, config: str, command: str, argv: Sequence[str], trainer: Trainer, step: int
) -> None:
    """Keep what is needed to repeat the run: config.yaml, and in run.json every command line with its versions."""
    import lightning
    import numpy
    import torch

    record = {
        "command": command_line(command, argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "from_step": step,
        "device": str(trainer.strategy.root_device),
        "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "versions": {
            "gmvq": _version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "numpy": numpy.__version__,
        },
    }
    file = run_dir / "run.json"
    past: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        past = json.loads(file.read_text(encoding="utf-8"))
    write_text(file, json.dumps([*past, record], indent=2) + "\n")
    write_text(run_dir / "config.yaml", config)


def command_line(command: str, argv: Sequence[str]) -> str:
    """``gmvq fit`` and its arguments as they could be typed."""
    return f"{command} {shlex.join(argv)}".strip()


def quieten() -> None:
    """Silence what Lightning and torch tell developers and not users."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*number of training batches .* is smaller than the logging interval.*",
        r".*You have overridden `on_.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`srun` command is available.*",
        r".*recommended to use `self.log\(.*sync_dist=True.*",
        r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _version() -> str:
    from .main import _version as version

    return version()

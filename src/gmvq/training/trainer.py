"""``build_trainer``: the Lightning trainer of ``gmvq fit``, with our loggers, callbacks and checkpoint files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from ..errors import require
from ..functional.autocast import recommended_precision
from .callbacks import AtomicCheckpointIO, AtStart, LastCheckpoint
from .history import HistoryWriter
from .progress import StepProgress
from .waiting import DataWait

#: Where ``gmvq fit`` departs from the defaults of Lightning's Trainer.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 1500,
    "log_every_n_steps": 20,
    "val_check_interval": 250,
    "check_val_every_n_epoch": None,
}


def default_precision(accelerator: str) -> str:
    """Return the precision of a run whose user chose none: bf16 autocast where the device computes in it."""
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return recommended_precision("cuda" if cuda else "cpu")


def build_trainer(
    options: Mapping[str, Any],
    run_dir: Path,
    *,
    save_every: int = 200,
    keep_best: bool = False,
    logger: str = "tensorboard",
    from_step: int = 0,
    begin: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Build the trainer of one run."""
    first = [AtStart(begin)] if begin else []
    callbacks: list[Callback] = [*first, LastCheckpoint(run_dir, save_every)]
    callbacks.append(DataWait(run_dir / "run.json"))
    if options.get("enable_progress_bar") is not False:
        callbacks.append(StepProgress())
    if keep_best:
        callbacks.append(
            ModelCheckpoint(
                run_dir / "checkpoints",
                filename="best",
                monitor="validation/mse",
                enable_version_counter=False,
            )
        )
    return Trainer(
        **options,
        callbacks=callbacks,
        logger=[HistoryWriter(run_dir / "history.jsonl"), *_loggers(logger, run_dir, from_step)],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run_dir,
        enable_checkpointing=keep_best,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _loggers(kind: str, run_dir: Path, from_step: int) -> list[Any]:
    if kind == "tensorboard":
        require("tensorboard", "train")
        from lightning.pytorch.loggers import TensorBoardLogger

        options: dict[str, Any] = {"purge_step": from_step} if from_step else {}
        return [TensorBoardLogger(run_dir, name="", version="tensorboard", **options)]
    if kind == "wandb":
        try:
            require("wandb", "train")
        except ImportError as error:
            raise ImportError(
                "--logger wandb needs the package wandb; install it with: pip install wandb"
            ) from error
        from lightning.pytorch.loggers import WandbLogger

        return [WandbLogger(name=run_dir.name, save_dir=run_dir, project="gmvq")]
    return []

"""How a run begins and ends: its Lightning trainer, with our loggers and checkpoint files, and what it leaves behind.

That is the model to ship, its figures on the test images, and a report to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint

from ..evaluation import Evaluation, evaluate, write_metrics, write_report
from ..files import PathLike
from ..functional.autocast import recommended_precision
from ..reading import read_json
from .averaging import AveragedWeights
from .callbacks import AtomicCheckpointIO, LastCheckpoint
from .checkpoint import EXPORT, likelihood_notes
from .data import ImageDataModule
from .loggers import HistoryWriter, build_loggers
from .module import TokenizerModule
from .progress import DataWait, LoggedPictures, StepProgress
from .sharding import ShardedStrategy

#: Where ``gmvq fit`` departs from the defaults of Lightning's Trainer.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 1500,
    "log_every_n_steps": 20,
    "val_check_interval": 250,
    "check_val_every_n_epoch": None,
}


def build_trainer(
    config: Any,
    run_dir: Path,
    step: int,
    checkpoint: dict[str, Any] | None,
    begin: Callable[[Trainer], None],
) -> Trainer:
    """Build the trainer of a run from its options, in which it enters the precision where none was chosen.

    A run that goes on does so after ``step``, from its ``checkpoint``. ``begin`` is called in the first process when
    the first step is about to be made.
    """
    options = config.trainer
    if options["precision"] is None:
        # bf16 autocast where the device computes in it.
        cuda = torch.cuda.is_available() and options["accelerator"] in ("auto", "gpu", "cuda")
        options["precision"] = recommended_precision("cuda" if cuda else "cpu")
    averaging = [AveragedWeights(config.average)] if config.average else []
    callbacks: list[Callback] = [
        LambdaCallback(on_train_start=lambda trainer, _: begin(trainer) if trainer.is_global_zero else None),
        *averaging,
        LastCheckpoint(run_dir, config.save_every),
        LoggedPictures(),
        DataWait(run_dir / "run.json"),
    ]
    if options["enable_progress_bar"] is not False:
        callbacks.append(StepProgress())
    keep_best = getattr(config, "keep_best", False)
    if keep_best:
        best = {"filename": "best", "monitor": "validation/mse", "enable_version_counter": False}
        callbacks.append(ModelCheckpoint(run_dir / "checkpoints", **best))
    given = {**dict(options), "enable_progress_bar": False}
    if options["strategy"] == "fsdp":
        given["strategy"] = ShardedStrategy()
    return Trainer(
        **given,
        callbacks=callbacks,
        logger=[HistoryWriter(run_dir / "history.jsonl"), *build_loggers(config.logger, run_dir, step)],
        plugins=[AtomicCheckpointIO(checkpoint)],
        default_root_dir=run_dir,
        enable_checkpointing=keep_best,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def export_run(
    run_dir: PathLike,
    module: TokenizerModule,
    data: ImageDataModule,
    *,
    step: int,
    command: str | Sequence[str],
    bound_samples: int = 0,
    device: torch.device | str | None = None,
) -> Evaluation | None:
    """Write ``model/``, ``metrics.json`` and ``report.html`` into a run folder; return the figures on the test images.

    The model is written first, so that it is there even if the evaluation is interrupted; then again with its
    figures in the metadata. A model without codes, whose quantizer was frozen from the first, has no figures: None.
    """
    folder = Path(run_dir)
    module.model.eval()  # which starts the codebook of a training that was too short for one
    metadata: dict[str, Any] = {
        "step": step,
        "data": data.settings,
        "likelihood": likelihood_notes(module.settings, module.likelihood.state_dict()),
        "settings": module.settings,
    }
    module.model.save_pretrained(folder / EXPORT, metadata=metadata)
    if not all(mixture.started for mixture in module._mixtures().values()):
        return None
    images = data.dataset("test")
    metadata["data"] = {**data.settings, "test": images.description}
    evaluation = evaluate(
        module.model,
        images,
        batch_size=data.batch_size,
        likelihood=module.likelihood,
        bound_samples=bound_samples,
        device=device,
    )
    figures = read_json(write_metrics(folder / "metrics.json", evaluation))
    module.model.save_pretrained(folder / EXPORT, metadata={**metadata, "metrics": figures})
    write_report(folder, module.model, images, title=folder.name, command=command)
    return evaluation

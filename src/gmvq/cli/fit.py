"""``gmvq fit``: from options to a trained, measured and exported tokenizer in a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import say, tell, tell_skipped
from .training_run import TrainingRun, plan, prepare, run_name

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from ..training import ImageDataModule, TokenizerModule

_SPLITS = ("train", "validation", "test")
#: Where the processes of a run note what they cannot read, until it ends.
_NOTES = ".skipped.jsonl"


def run(argv: Sequence[str]) -> int:
    """Train; return the exit code: 0, 1 if an item could not be read, or 128 + the signal that stopped the run."""
    prepare()
    from ..training.finetune import begin_from, freeze, options_of
    from ..training.notes import place_here
    from .options import build_parser, build_run, config_files

    def planned_run(*more: str) -> TrainingRun:
        def name_of(config: Any) -> str:
            return run_name(config.name, config_files(argv), config.data.path)

        return plan("gmvq fit", build_parser(), [*more, *argv], name_of)

    planned = planned_run()
    source = None if planned.checkpoint else planned.config.init_from
    if source and not any(word in (source, f"--init_from={source}") for word in argv):
        place_here(source, "the configuration", f"type it to fetch it from the Hub: --init_from {source}")
    if source:
        planned = replace(planned_run(*options_of(source)), argv=argv)
    module, data = build_run(planned.parser, planned.config)
    _check(module, data)
    begun = [begin_from(module, data, source, planned.config.init_codebook)] if source else []
    freeze(module, planned.config.freeze)
    _watch(data, planned.config.strict, planned.run_dir / _NOTES)
    text = "\n".join([*(f"begins with {one}" for one in begun), *_describe(data)])
    return planned.train(module, data, text, lambda trainer: _export(planned, trainer, module, data))


def _check(module: TokenizerModule, data: ImageDataModule) -> None:
    """Find what is wrong before anything is written."""
    downsample = int(module.settings["downsample"])
    if data.size % downsample:
        raise ValueError(
            f"data.size must be a multiple of model.downsample={downsample}, got {data.size}; "
            f"try {max(1, round(data.size / downsample)) * downsample}"
        )
    for split in _SPLITS:
        data.dataset(split)


def _describe(data: ImageDataModule) -> list[str]:
    """What is trained on, how large pictures are read and how to choose otherwise, and what is left out."""
    from ..data import ImageDataset

    train = data.dataset("train")
    lines = [f"data: {train.description}"]
    if isinstance(train, ImageDataset) and train.scales and data.crops == "auto":
        lines.append(
            f"pictures much larger than {data.size} pixels: crops show parts of them at all scales, and evaluation "
            f"covers them in tiles; --data.crops whole scales each down to {data.size} pixels"
        )
    if train.skipped:
        named = "; ".join(f"{name}: {reason}" for name, reason in train.skipped[:3])
        more = len(train.skipped) - 3
        lines.append(f"skipped: {named}{f'; and {more} more' if more > 0 else ''}")
    return lines


def _watch(data: ImageDataModule, strict: bool, notes: Path) -> None:
    """Say what happens with items that cannot be read: the worker processes note them in a file."""
    for split in _SPLITS:
        watch = data.dataset(split).watch
        watch.strict = strict
        watch.look(data.dataset(split).skipped)
        watch.notes = notes


def _list_skipped(data: ImageDataModule, run_dir: Path) -> int:
    """Write ``skipped.jsonl``; return the number of bad items."""
    from ..data.skipping import read_noted, write_skipped

    notes = run_dir / _NOTES
    found = read_noted(notes)
    bad = write_skipped(
        run_dir, data.path, [*found, *(one for s in _SPLITS for one in data.dataset(s).skipped)]
    )
    notes.unlink(missing_ok=True)
    return bad


def _export(planned: TrainingRun, trainer: Trainer, module: TokenizerModule, data: ImageDataModule) -> int:
    from ..evaluation import format_table
    from ..training.finetune import error_without_codes
    from ..training.trainer import export_run

    say(f"trained for {trainer.global_step} steps; measuring on the test images")
    evaluation = export_run(
        planned.run_dir,
        module,
        data,
        step=trainer.global_step,
        command=planned.command_line,
        bound_samples=planned.config.bound_samples,
        device=trainer.strategy.root_device,
    )
    images = data.dataset("test")
    if evaluation is None:
        tell(f"{images.description}\nMSE without codes: {error_without_codes(module.model, images):.3g}")
        say(f"written to {planned.run_dir}: model/; gmvq transplant {planned.run_dir} puts codes into it")
    else:
        tell(f"{images.description}\n{format_table(evaluation)}")
        say(f"written to {planned.run_dir}: model/, metrics.json, report.html")
    code = tell_skipped(planned.run_dir, _list_skipped(data, planned.run_dir))
    # torchrun takes every other exit code for a crash, and starts all processes again.
    return 0 if "TORCHELASTIC_RUN_ID" in os.environ else code

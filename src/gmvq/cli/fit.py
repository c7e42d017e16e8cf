"""``gmvq fit``: from options to a trained, measured and exported tokenizer in a run folder."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import require
from .common import say
from .records import command_line, quieten, write_records
from .runs import LAST, checkpoint_to_resume, new_run_dir, run_dir_of, run_name

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from ..training import ImageDataModule, TokenizerModule

#: Set for the processes that Lightning starts, so that all of a run use one folder.
_RUN_DIR = "_GMVQ_RUN_DIR"


def run(argv: Sequence[str]) -> int:
    """Train; return the exit code: 0, or 128 + the signal that stopped the run."""
    for module in ("lightning.pytorch", "jsonargparse"):
        require(module, "train")
    quieten()
    from ..training.trainer import build_trainer, default_precision
    from .options import build_parser, build_run, config_files, parse_options

    parser = build_parser()
    config = parse_options(parser, argv)
    name = run_name(config.name, config_files(argv), config.data.path)
    checkpoint = checkpoint_to_resume(config.ckpt_path, config.out, name) if config.ckpt_path else None
    if checkpoint is None:
        run_dir = Path(os.environ.get(_RUN_DIR) or new_run_dir(config.out, name))
    else:
        run_dir = run_dir_of(checkpoint)
        stored = run_dir / "config.yaml"
        if stored.is_file() and not config_files(argv):
            config = parse_options(parser, ["--config", str(stored), *argv])
        if config.out and Path(config.out).expanduser().resolve() != run_dir.resolve():
            run_dir = Path(os.environ.get(_RUN_DIR) or new_run_dir(config.out, name))
    module, data = build_run(parser, config)
    step = _check(module, data, checkpoint)
    taken = Path(config.out).expanduser() if config.out else Path("runs", name)
    note = (
        f", going on after step {step}" if checkpoint else f" ({taken} is taken)" if run_dir != taken else ""
    )
    config["out"], config["name"], config["ckpt_path"] = None, config.name or name, None

    def begin(trainer: Trainer) -> None:
        say(f"run folder: {run_dir}{note}\ndata: {data.dataset('train').description}")
        write_records(run_dir, parser.dump(config, skip_none=False), "gmvq fit", argv, trainer, step)

    if config.trainer["precision"] is None:
        config.trainer["precision"] = default_precision(config.trainer["accelerator"])
    trainer = build_trainer(
        dict(config.trainer),
        run_dir,
        save_every=config.save_every,
        keep_best=config.keep_best,
        logger=config.logger,
        from_step=step,
        begin=begin,
    )
    if trainer.is_global_zero:
        os.environ[_RUN_DIR] = str(run_dir)
    try:
        return _fit(trainer, module, data, checkpoint, run_dir, argv, config.bound_samples)
    finally:
        os.environ.pop(_RUN_DIR, None)


def _check(module: TokenizerModule, data: ImageDataModule, checkpoint: Path | None) -> int:
    """Find what is wrong before anything is written; return the steps already done.

    Raises:
        ValueError: image size and network do not go together, or the checkpoint is not of this model.
    """
    from ..training.checkpoint import check_fits, read_checkpoint

    downsample = int(module.settings["downsample"])
    if data.size % downsample:
        raise ValueError(
            f"data.size must be a multiple of model.downsample={downsample}, got {data.size}; "
            f"try {max(1, round(data.size / downsample)) * downsample}"
        )
    for split in ("train", "validation", "test"):
        data.dataset(split)
    if checkpoint is None:
        return 0
    contents = read_checkpoint(checkpoint)
    check_fits(contents, module.state_dict(), module.settings)
    return int(contents["global_step"])


def _fit(
    trainer: Trainer,
    module: TokenizerModule,
    data: ImageDataModule,
    checkpoint: Path | None,
    run_dir: Path,
    argv: Sequence[str],
    bound_samples: int,
) -> int:
    from ..evaluation import format_table
    from ..training.callbacks import StopRequested
    from ..training.export import export_run

    resume = f"gmvq fit --ckpt_path {shlex.quote(str(run_dir))}"
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except StopRequested as stop:
        if trainer.is_global_zero:
            say(f"\n{stop}, with a checkpoint. Go on with: {resume}")
        return 128 + int(stop.signal)
    except (
        SystemExit
    ):  # how Lightning ends on a KeyboardInterrupt: a second Ctrl-C, or one before the first step
        last = (run_dir / LAST).is_file()
        say(
            f"\nstopped at once. Go on with: {resume}"
            if last
            else "\nstopped; there is nothing to go on from"
        )
        return 128 + int(signal.SIGINT)
    if not trainer.is_global_zero:
        return 0
    say(f"trained for {trainer.global_step} steps; measuring on the test images")
    try:
        evaluation = export_run(
            run_dir,
            module,
            data,
            step=trainer.global_step,
            command=command_line("gmvq fit", argv),
            bound_samples=bound_samples,
            device=trainer.strategy.root_device,
        )
    except KeyboardInterrupt:
        say(f"\nstopped while measuring; the model is trained. Finish with: {resume}")
        return 128 + int(signal.SIGINT)
    print(f"{data.dataset('test').description}\n{format_table(evaluation)}")
    say(f"written to {run_dir}: model/, metrics.json, report.html")
    return 0

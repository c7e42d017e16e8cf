"""What every command that trains has in common: its folder, its records, its trainer, and how it stops."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment import versions
from ..files import DiskFullError, check_own, real_path, remove_leftovers, write_json, write_text
from ..reading import read_json
from .common import say
from .runs import LAST, checkpoint_to_resume, new_run_dir, run_dir_of, run_of

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import LightningDataModule, Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from ..prior import PriorModule
    from ..training import TokenizerModule

#: Set for the processes that Lightning starts, so that all of a run use one folder.
_RUN_DIR = "_GMVQ_RUN_DIR"


@dataclass
class TrainingRun:
    """A run that is about to begin or to go on.

    Attributes:
        command: as it is typed, ``gmvq fit``.
        argv: what follows it.
        parser, config: its options.
        name, run_dir: of the run.
        checkpoint: what it goes on from; None: it begins.
    """

    command: str
    argv: Sequence[str]
    parser: LightningArgumentParser
    config: Namespace
    name: str
    run_dir: Path
    checkpoint: Path | None

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return f"{self.command} --ckpt_path {shlex.quote(str(self.run_dir))}"

    def steps_done(self, module: TokenizerModule | PriorModule) -> int:
        """The steps that the checkpoint has behind it; 0 without one."""
        if self.checkpoint is None:
            return 0
        from ..training.checkpoint import check_fits

        check_fits(self.contents, module.state_dict(), module.settings)
        return int(self.contents["global_step"])

    @cached_property
    def contents(self) -> dict[str, Any]:
        """The checkpoint, read once."""
        from ..training.checkpoint import read_checkpoint

        assert self.checkpoint is not None
        return read_checkpoint(self.checkpoint)

    def train(
        self,
        module: TokenizerModule | PriorModule,
        data: LightningDataModule,
        describe: Callable[[], str],
        finish: Callable[[Trainer], int],
        *,
        step: int,
        keep_best: bool = False,
    ) -> int:
        """Train, or say how to go on where that was stopped; return the exit code."""
        from ..training.trainer import build_trainer, default_precision

        config = self.config
        taken = Path(config.out).expanduser() if config.out else Path("runs", self.name)
        note = f" ({taken} is taken)" if self.run_dir != taken else ""
        note = f", going on after step {step}" if self.checkpoint else note
        config["out"], config["name"], config["ckpt_path"] = None, config.name or self.name, None

        check_own(self.run_dir)

        def begin(trainer: Trainer) -> None:
            say(f"run folder: {self.run_dir}{note}\n{describe()}")
            for folder in (self.run_dir, self.run_dir / LAST.parent, self.run_dir / "model"):
                remove_leftovers(folder)
            text = self.parser.dump(config, skip_none=False)
            write_records(self.run_dir, text, self.command, self.argv, trainer, step)

        if config.trainer["precision"] is None:
            config.trainer["precision"] = default_precision(config.trainer["accelerator"])
        trainer = build_trainer(
            dict(config.trainer),
            self.run_dir,
            save_every=config.save_every,
            keep_best=keep_best,
            logger=config.logger,
            from_step=step,
            average=config.average,
            checkpoint=self.contents if self.checkpoint else None,
            begin=begin,
        )
        if trainer.is_global_zero:
            os.environ[_RUN_DIR] = str(self.run_dir)
        try:
            return self._fit(trainer, module, data, finish)
        except DiskFullError as error:
            if not (self.run_dir / LAST).is_file():
                raise
            further = f"{error.strerror}, or go on from the last checkpoint with: {self.resume}"
            raise DiskFullError(error.errno, further) from error
        finally:
            os.environ.pop(_RUN_DIR, None)

    def _go_on(self) -> str:
        """What to do after a process was lost."""
        if (self.run_dir / LAST).is_file():
            return f"Go on from the last checkpoint, started as before, with: {self.resume}"
        return f"There is no checkpoint yet; begin anew with: {command_line(self.command, self.argv)}"

    def _fit(
        self,
        trainer: Trainer,
        module: TokenizerModule | PriorModule,
        data: LightningDataModule,
        finish: Callable[[Trainer], int],
    ) -> int:
        from ..training.callbacks import StopRequested
        from ..training.ranks import watching_ranks

        try:
            with watching_ranks(trainer, self.command, self._go_on):
                trainer.fit(module, data, ckpt_path=self.checkpoint, weights_only=True)
                trainer.strategy.barrier()
        except StopRequested as stop:
            if trainer.is_global_zero:
                say(f"\n{stop}, with a checkpoint. Go on with: {self.resume}")
            return 128 + int(stop.signal)
        except (
            SystemExit
        ):  # how Lightning ends on a KeyboardInterrupt: a second Ctrl-C, or one before the first step
            last = (self.run_dir / LAST).is_file()
            say(
                f"\nstopped at once. Go on with: {self.resume}"
                if last
                else "\nstopped; there is nothing to go on from"
            )
            return 128 + int(signal.SIGINT)
        if not trainer.is_global_zero:
            return 0
        try:
            return finish(trainer)
        except KeyboardInterrupt:
            say(f"\nstopped while measuring; the model is trained. Finish with: {self.resume}")
            return 128 + int(signal.SIGINT)


def plan(
    command: str, parser: LightningArgumentParser, argv: Sequence[str], name_of: Callable[[Namespace], str]
) -> TrainingRun:
    """Find the folder of a run, and the checkpoint and options that it goes on with."""
    from .options import config_files, parse_options

    config = parse_options(parser, argv)
    name = name_of(config)
    auto = config.ckpt_path == "auto"
    checkpoint = None
    if config.ckpt_path:
        checkpoint = checkpoint_to_resume(config.ckpt_path, config.out, name)
    if checkpoint is None:
        # With "auto" a run that was stopped before its first checkpoint begins again in its folder.
        free = run_of(config.out, name) if auto else new_run_dir(config.out, name)
        return TrainingRun(command, argv, parser, config, name, Path(os.environ.get(_RUN_DIR) or free), None)
    run_dir = run_dir_of(checkpoint)
    stored = run_dir / "config.yaml"
    if stored.is_file() and not config_files(argv):
        config = parse_options(parser, ["--config", str(stored), *argv])
    if config.out and real_path(config.out) != real_path(run_dir):
        run_dir = Path(os.environ.get(_RUN_DIR) or new_run_dir(config.out, name))
    return TrainingRun(command, argv, parser, config, name, run_dir, checkpoint)


def write_records(
    run_dir: Path, config: str, command: str, argv: Sequence[str], trainer: Trainer, step: int
) -> None:
    """Keep what is needed to repeat the run: config.yaml, and in run.json every command line with its versions."""
    import torch

    record = {
        "command": command_line(command, argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "from_step": step,
        "device": str(trainer.strategy.root_device),
        "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "versions": versions("gmvq", "python", "torch", "lightning", "numpy"),
    }
    file = run_dir / "run.json"
    past: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        past = read_json(file)
    write_json(file, [*past, record])
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

"""What every command that trains has in common: its folder, its records, its trainer, and how it stops.

A new run goes to a folder of its own, and one that ``--ckpt_path`` names goes on in its.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
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
from ..errors import require
from ..files import DiskFullError, check_own, real_path, remove_leftovers, write_json, write_text
from ..reading import read_json
from .common import RUNS, say

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import LightningDataModule, Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from ..prior import PriorModule
    from ..training import TokenizerModule

LAST = Path("checkpoints", "last.ckpt")
#: Set for the processes that Lightning starts, so that all of a run use one folder.
_RUN_DIR = "_GMVQ_RUN_DIR"


@dataclass
class TrainingRun:
    """A run that is about to begin, or to go on from a checkpoint; ``command`` is what stands in front of ``argv``."""

    command: str
    argv: Sequence[str]
    parser: LightningArgumentParser
    config: Namespace
    name: str
    run_dir: Path
    checkpoint: Path | None

    @property
    def command_line(self) -> str:
        """The command as it could be typed again."""
        return f"{self.command} {shlex.join(self.argv)}".strip()

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return f"{self.command} --ckpt_path {shlex.quote(str(self.run_dir))}"

    @cached_property
    def contents(self) -> dict[str, Any] | None:
        """The checkpoint, read once."""
        from ..training.checkpoint import read_checkpoint

        return None if self.checkpoint is None else read_checkpoint(self.checkpoint)

    def train(
        self,
        module: TokenizerModule | PriorModule,
        data: LightningDataModule,
        description: str,
        finish: Callable[[Trainer], int],
    ) -> int:
        """Train, or say how to go on where that was stopped; return the exit code."""
        from ..training.checkpoint import check_fits
        from ..training.trainer import build_trainer

        config, step = self.config, 0
        if self.contents is not None:
            check_fits(self.contents, module.state_dict(), module.settings)
            step = int(self.contents["global_step"])
        taken = _folder(config.out, self.name)
        note = f" ({taken} is taken)" if self.run_dir != taken else ""
        note = f", going on after step {step}" if self.checkpoint else note
        config["out"], config["name"], config["ckpt_path"] = None, config.name or self.name, None
        check_own(self.run_dir)

        def begin(trainer: Trainer) -> None:
            say(f"run folder: {self.run_dir}{note}\n{description}")
            for folder in (self.run_dir, self.run_dir / LAST.parent, self.run_dir / "model"):
                remove_leftovers(folder)
            self._write_records(self.parser.dump(config, skip_none=False), trainer, step)

        trainer = build_trainer(config, self.run_dir, step, self.contents, begin)
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
        return f"There is no checkpoint yet; begin anew with: {self.command_line}"

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
        # How Lightning ends on a KeyboardInterrupt: a second Ctrl-C, or one before the first step.
        except SystemExit:
            last = (self.run_dir / LAST).is_file()
            how = f" at once. Go on with: {self.resume}" if last else "; there is nothing to go on from"
            say(f"\nstopped{how}")
            return 128 + int(signal.SIGINT)
        if not trainer.is_global_zero:
            return 0
        try:
            return finish(trainer)
        except KeyboardInterrupt:
            say(f"\nstopped while measuring; the model is trained. Finish with: {self.resume}")
            return 128 + int(signal.SIGINT)

    def _write_records(self, text: str, trainer: Trainer, step: int) -> None:
        """Keep what is needed to repeat the run: config.yaml, and in run.json every command line with its versions."""
        import torch

        record = {
            "command": self.command_line,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "from_step": step,
            "device": str(trainer.strategy.root_device),
            "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "processes": trainer.world_size,
            "threads": torch.get_num_threads(),
            "versions": versions("gmvq", "python", "torch", "lightning", "numpy"),
        }
        file, past = self.run_dir / "run.json", list[Any]()
        with contextlib.suppress(OSError, ValueError):
            past = read_json(file)
        write_json(file, [*past, record])
        write_text(self.run_dir / "config.yaml", text)


def plan(
    command: str, parser: LightningArgumentParser, argv: Sequence[str], name_of: Callable[[Namespace], str]
) -> TrainingRun:
    """Find the folder of a run, and the checkpoint and options that it goes on with."""
    from .options import config_files, parse_options

    config = parse_options(parser, argv)
    name = name_of(config)
    checkpoint = _checkpoint(config.ckpt_path, config.out, name) if config.ckpt_path else None
    if checkpoint is None:
        # With "auto" a run that was stopped before its first checkpoint begins again in its folder.
        again = config.ckpt_path == "auto" and _RUN_DIR not in os.environ
        again = again and (_folder(config.out, name) / "config.yaml").is_file()
        folder = _folder(config.out, name) if again else _new_folder(config.out, name)
        return TrainingRun(command, argv, parser, config, name, folder, None)
    run_dir = checkpoint.parent
    run_dir = run_dir.parent if run_dir.name == LAST.parent.name else run_dir
    stored = run_dir / "config.yaml"
    if stored.is_file() and not config_files(argv):
        config = parse_options(parser, ["--config", str(stored), *argv])
    if config.out and real_path(config.out) != real_path(run_dir):
        run_dir = _new_folder(config.out, name)
    return TrainingRun(command, argv, parser, config, name, run_dir, checkpoint)


def run_name(name: str | None, config_files: list[str], data: str) -> str:
    """Return the name of a run: the one given, else that of its config file, else that of its data."""
    if name:
        if Path(name).name != name:
            raise ValueError(f"--name is the name of a folder in {RUNS}/, got {name!r}; for a path use --out")
        return name
    source = Path(config_files[-1]).stem if config_files else Path(data.removeprefix("hf:")).stem
    return re.sub(r"[^\w.-]+", "_", source) or "run"


def _folder(out: str | None, name: str) -> Path:
    return Path(out).expanduser() if out else RUNS / name


def _new_folder(out: str | None, name: str) -> Path:
    """A folder that does not exist or is empty: ``out`` or ``runs/name``, else the first free -2, -3, ..."""
    if known := os.environ.get(_RUN_DIR):
        return Path(known)
    folder, number = _folder(out, name), 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = folder.with_name(f"{_folder(out, name).name}-{number}")
    return folder


def _checkpoint(ckpt_path: str, out: str | None, name: str) -> Path | None:
    """The checkpoint file that ``--ckpt_path`` means; None for "auto" where there is none.

    That is a file, a run folder, "last" or "auto" (the last, if there is one): of ``out``, or of the newest of
    runs/name, runs/name-2, ...
    """
    runs = sorted(str(path.parent.parent) for path in RUNS.glob(f"*/{LAST}"))
    known = f"; runs that can be resumed: {', '.join(runs)}" if runs else f"; no run in {RUNS}/ has one"
    if ckpt_path not in ("last", "auto"):
        path = Path(ckpt_path).expanduser()
        path = path / LAST if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}{known}")
        return path
    pattern = re.compile(re.escape(name) + r"(-\d+)?")
    folders = RUNS.iterdir() if RUNS.is_dir() and not out else ()
    found = [folder for folder in folders if pattern.fullmatch(folder.name)] or [_folder(out, name)]
    found = [folder / LAST for folder in found if (folder / LAST).is_file()]
    if not found and ckpt_path == "last":
        raise FileNotFoundError(f"there is no run to resume: {_folder(out, name)} has no {LAST}{known}")
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def prepare() -> None:
    """Require what every training needs, and silence what Lightning and torch tell developers and not users."""
    for module in ("lightning.pytorch", "jsonargparse"):
        require(module, "train")
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

"""``gmvq bench step``: where the time of one training step of ``gmvq fit`` goes, measured in the real training loop.

Module and tensor hooks mark the boundaries; at every moment exactly one phase is on the clock, so the phases of a step
add up to its wall time. A mark costs about a microsecond (and, on a GPU, waits for the device).
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmvq.files import write_json
from gmvq.training.data import ImageDataModule
from gmvq.training.module import TokenizerModule
from gmvq.training.trainer import TRAINER_DEFAULTS, build_trainer, default_precision

from ..markdown import table as markdown_table
from ..results import environment, package_version

KIND = "gmvq bench step"
#: Waiting for the next batch; encoder, decoder, likelihood and their backward, casts and copies; the quantizer forward,
#: backward and its schedules; the optimizer; logging, progress, callbacks, Lightning's loop, seeds.
PHASES = ("data", "network", "quantizer", "optimizer", "bookkeeping")


@dataclass(frozen=True)
class StepSettings:
    """What is trained: the options of ``gmvq fit`` that decide about speed; precision None: as fit chooses."""

    network: str = "tiny"
    codebook_size: int = 1024
    dim: int = 16
    size: int = 32
    batch_size: int = 64
    data: str = "photos"
    precision: str | None = None
    accelerator: str = "cpu"
    logger: str = "tensorboard"


SETTINGS = [
    StepSettings(net, codebook_size=k, dim=d) for net, d in (("tiny", 16), ("small", 64)) for k in (256, 1024)
]


class Clock:
    """Wall time divided among phases without gaps, step by step."""

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self.steps: list[dict[str, float]] = []
        self._synchronize = synchronize
        self._phase, self._since = "bookkeeping", time.perf_counter()
        self._now: dict[str, float] = {}

    def enter(self, phase: str) -> str:
        """Begin a phase; return the one that ends with it."""
        if self._synchronize is not None:
            self._synchronize()
        now, before = time.perf_counter(), self._phase
        self._now[before] = self._now.get(before, 0.0) + now - self._since
        self._phase, self._since = phase, now
        return before

    def lap(self) -> None:
        """End the step at hand."""
        self.enter(self._phase)
        self.steps.append(self._now)
        self._now = {}

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, on the clock as ``phase``."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.enter(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.enter(before)

        return timed

    def hook(self, phase: str) -> Callable[..., None]:
        """A hook that begins a phase; it returns nothing, as what a hook returns replaces what it was called with."""
        return lambda *_: (self.enter(phase), None)[1]


class TimedModule(TokenizerModule):
    """The module of ``gmvq fit``, which tells a clock where in a step it is."""

    clock: Clock

    def watch(self, clock: Clock) -> None:
        """Put the hooks on the quantizer; its backward lies between the gradients of its output and of its input."""
        self.clock = clock
        quantizer: Any = self.model.quantizer

        def mark(tensor: Tensor, phase: str) -> None:
            if tensor.requires_grad:
                tensor.register_hook(clock.hook(phase))

        quantizer.register_forward_pre_hook(clock.hook("quantizer"))
        quantizer.register_forward_hook(clock.hook("network"))
        quantizer.register_forward_pre_hook(lambda _, given: mark(given[0], "network"))
        quantizer.register_forward_hook(lambda _, __, out: mark(out.quantized, "quantizer"))
        quantizer.set_progress = clock.around("quantizer", quantizer.set_progress)

    def configure_optimizers(self) -> Any:
        found: Any = super().configure_optimizers()
        found["optimizer"].register_step_post_hook(self.clock.hook("bookkeeping"))
        return found

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        self.clock.lap()
        super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.clock.around("network", super().training_step)(batch, batch_idx)

    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        self.clock.around("bookkeeping", super().log_dict)(*args, **kwargs)

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self.clock.enter("optimizer")

    def on_before_backward(self, loss: Tensor) -> None:
        self.clock.enter("network")

    def on_after_backward(self) -> None:
        self.clock.enter("bookkeeping")

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.clock.enter("optimizer")  # gradient clipping too


class TimedData(ImageDataModule):
    """The data of ``gmvq fit``; waiting for the next training batch is a phase."""

    clock: Clock

    def train_dataloader(self) -> Any:
        loader: Any = super().train_dataloader()
        make = loader._get_iterator

        def timed() -> Iterator[Tensor]:
            batches = make()
            take = self.clock.around("data", lambda: next(batches, None))
            while (batch := take()) is not None:
                yield batch

        loader._get_iterator = timed
        return loader


def profile_step(
    settings: StepSettings = StepSettings(), *, steps: int = 60, warmup: int = 20, run_dir: Path | None = None
) -> dict[str, Any]:
    """Train as ``gmvq fit`` does and divide the wall time of a step among its phases.

    A phase's figure is the median over blocks of ``log_every_n_steps`` steps of its mean within the block.

    Args:
        settings: what is trained.
        steps, warmup: steps measured, rounded up to whole blocks, and steps before.
        run_dir: what the run writes; default: a temporary folder.

    Returns:
        JSON-able: settings, environment; ``seconds`` per step and phase, ``step`` their sum, ``parts``: shares of it,
        the optimizer's divided between quantizer and network, ``outside_quantizer``: of what is not quantizer.
    """
    if run_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            return profile_step(settings, steps=steps, warmup=warmup, run_dir=Path(folder))
    block = TRAINER_DEFAULTS["log_every_n_steps"]
    steps = -(-max(steps, 1) // block) * block
    clock, module, trainer = _train(settings, warmup + steps + 1, run_dir)
    measured = clock.steps[1 + warmup : 1 + warmup + steps]  # the first lap is everything before training
    blocks = [measured[start : start + block] for start in range(0, steps, block)]
    seconds = {
        phase: statistics.median(statistics.fmean(step.get(phase, 0.0) for step in some) for some in blocks)
        for phase in PHASES
    }
    share = _quantizer_share(trainer.optimizers[0], module.model.quantizer)
    total, parts = sum(seconds.values()), dict(seconds)
    optimizer = parts.pop("optimizer")
    parts["network"] += (1 - share) * optimizer
    parts["quantizer"] += share * optimizer
    outside = total - parts["quantizer"]
    where = environment(trainer.strategy.root_device)
    return {
        **asdict(settings),
        "precision": settings.precision or default_precision(settings.accelerator),
        "environment": {**where, "lightning": package_version("lightning")},
        "steps": steps,
        "step": total,
        "seconds": seconds,
        "parts": {part: value / total for part, value in parts.items()},
        "outside_quantizer": {p: value / outside for p, value in parts.items() if p != "quantizer"},
        "optimizer_share_of_quantizer": share,
    }


def _train(settings: StepSettings, last: int, run_dir: Path) -> tuple[Clock, TimedModule, Any]:
    """The clock of a training of ``last`` steps, its module and its trainer."""
    options = TRAINER_DEFAULTS | {"accelerator": settings.accelerator, "devices": 1, "max_steps": last}
    options["precision"] = settings.precision or default_precision(settings.accelerator)
    options["val_check_interval"] = last
    module = TimedModule(settings.network, dim=settings.dim, codebook_size=settings.codebook_size)  # pyright: ignore
    quantizer: Any = module.model.quantizer
    quantizer.start_after = 0  # what is timed has codes
    data = TimedData(settings.data, size=settings.size, batch_size=settings.batch_size)
    trainer = build_trainer(options, run_dir, save_every=last, logger=settings.logger)
    device = trainer.strategy.root_device
    clock = Clock(torch.cuda.synchronize if device.type == "cuda" else None)
    module.watch(clock)
    data.clock = clock
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    clock.lap()
    return clock, module, trainer


def _quantizer_share(optimizer: Optimizer, quantizer: Any, repeats: int = 15) -> float:
    """The time of an optimizer step for the quantizer's parameters alone, as a share of the whole step's."""
    own = {id(parameter) for parameter in quantizer.parameters()}

    def seconds() -> float:
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            optimizer.step()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
    whole = seconds()
    for parameter in parameters:
        if id(parameter) not in own:
            parameter.grad = None
    return min(1.0, seconds() / whole)


def run(argv: Sequence[str]) -> int:
    """Measure ``SETTINGS`` as the command line says, print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="gmvq bench step",
        description="Divide the wall time of a training step among data, network, quantizer and bookkeeping. Of "
        "several rounds the one with the median step counts. On shared cores measure with OMP_NUM_THREADS=1: "
        "threads that wait for each other hide everything else.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file to write")
    for name, default, text in (
        ("steps", 60, "steps measured, whole blocks of 20"),
        ("warmup", 20, "steps before them"),
        ("rounds", 3, "times that each setting is measured"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    options = parser.parse_args(list(argv))
    rounds = [
        [profile_step(settings, steps=options.steps, warmup=options.warmup) for settings in SETTINGS]
        for _ in range(max(1, options.rounds))
    ]
    results = [sorted(found, key=lambda r: r["step"])[len(found) // 2] for found in zip(*rounds, strict=True)]
    if options.json is not None:
        command = shlex.join(["gmvq", "bench", "step", *argv])
        write_json(options.json, {"kind": KIND, "command": command, "cases": results})
    print(table(results))
    return 0


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The parts of each step as a row, and data with bookkeeping as a share of the time outside the quantizer."""
    columns = ("network", "quantizer", "data", "bookkeeping")
    header = ("setting", "ms per step", *columns, "data and bookkeeping outside the quantizer")
    rows = []
    for result in results:
        outside = result["outside_quantizer"]
        name = f"{result['network']}, K = {result['codebook_size']}, D = {result['dim']}"
        parts = (f"{result['parts'][part]:.1%}" for part in columns)
        rows.append(
            [name, f"{result['step'] * 1e3:.1f}", *parts, f"{outside['data'] + outside['bookkeeping']:.1%}"]
        )
    return markdown_table(header, rows)

"""``gmvq bench step``: where the time of one training step of ``gmvq fit`` goes, measured in the real training loop."""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from gmvq.files import write_json
from gmvq.training.timing import Clock, TimedData, TimedModule
from gmvq.training.trainer import TRAINER_DEFAULTS, build_trainer, default_precision

from ..results import environment, package_version

KIND = "gmvq bench step"
#: Phase -> the part of the tokenizer's training that it counts as.
PHASES: dict[str, str] = {
    "data": "data",  # waiting for the next batch
    "encoder": "network",
    "quantizer": "quantizer",  # forward and schedules
    "decoder": "network",
    "convert": "network",  # memory format, casts and copies between the three
    "loss": "network",  # likelihood and its stored scale
    "backward_decoder": "network",  # of the loss and the decoder
    "backward_quantizer": "quantizer",  # from the gradient of ``quantized`` to that of the latents
    "backward_encoder": "network",
    "optimizer": "network",  # less the share of the quantizer's parameters
    "bookkeeping": "bookkeeping",  # logging, progress, callbacks, Lightning's loop, seeds
}


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
    StepSettings("tiny", codebook_size=256, dim=16),
    StepSettings("tiny", codebook_size=1024, dim=16),
    StepSettings("small", codebook_size=256, dim=64),
    StepSettings("small", codebook_size=1024, dim=64),
]


#: Steps of fit between two of them.
_EVERY = {"checkpoint": 200, "validation": 250}


def profile_step(
    settings: StepSettings = StepSettings(), *, steps: int = 60, warmup: int = 20, run_dir: Path | None = None
) -> dict[str, Any]:
    """Train as ``gmvq fit`` does and divide the wall time of a step among its phases.

    A phase's figure is the median over blocks of ``log_every_n_steps`` steps of its mean within the block. Checkpoint
    and validation are measured once and divided by fit's own intervals.

    Args:
        settings: what is trained.
        steps, warmup: steps measured, rounded up to whole blocks, and steps before.
        run_dir: what the run writes; default: a temporary folder.

    Returns:
        JSON-able: settings, environment; ``seconds`` per step and phase, ``step`` their sum, ``shares`` of it by phase,
        ``parts`` by what phases count as, ``outside_quantizer``: of what is not quantizer, ``occasional`` seconds.
    """
    if run_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            return profile_step(settings, steps=steps, warmup=warmup, run_dir=Path(folder))
    block = TRAINER_DEFAULTS["log_every_n_steps"]
    steps = -(-max(steps, 1) // block) * block
    clock, module, trainer = _train(settings, warmup + steps + 1, run_dir)
    measured = clock.steps[1 + warmup : 1 + warmup + steps]  # the first lap is everything before training
    blocks = [measured[start : start + block] for start in range(0, steps, block)]
    seconds = {phase: _typical(blocks, phase) for phase in PHASES}
    share = _quantizer_share(trainer.optimizers[0], module.model.quantizer)
    parts = _parts(seconds, share)
    total = sum(seconds.values())
    return {
        **asdict(settings),
        "precision": settings.precision or default_precision(settings.accelerator),
        "environment": {
            **environment(trainer.strategy.root_device),
            "lightning": package_version("lightning"),
        },
        "steps": steps,
        "step": total,
        "seconds": seconds,
        "shares": {phase: value / total for phase, value in seconds.items()},
        "parts": {part: value / total for part, value in parts.items()},
        "outside_quantizer": {
            p: value / (total - parts["quantizer"]) for p, value in parts.items() if p != "quantizer"
        },
        "optimizer_share_of_quantizer": share,
        "occasional": {n: clock.steps[-1].get(n, 0.0) / every for n, every in _EVERY.items()},
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
    trainer.save_checkpoint = clock.around("checkpoint", trainer.save_checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    clock.lap()
    return clock, module, trainer


def _typical(blocks: list[list[dict[str, float]]], phase: str) -> float:
    return statistics.median(statistics.fmean(step.get(phase, 0.0) for step in some) for some in blocks)


def _parts(seconds: Mapping[str, float], share: float) -> dict[str, float]:
    """Seconds by what the phases count as; the optimizer's are divided between quantizer and network."""
    parts = dict.fromkeys(PHASES.values(), 0.0)
    for phase, part in PHASES.items():
        parts[part] += seconds[phase]
    parts["network"] -= share * seconds["optimizer"]
    parts["quantizer"] += share * seconds["optimizer"]
    return parts


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
    parser.add_argument(
        "--steps", type=int, default=60, help="steps measured, whole blocks of 20 (default: 60)"
    )
    parser.add_argument("--warmup", type=int, default=20, help="steps before them (default: 20)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each setting is measured (default: 3)"
    )
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
    lines = [
        f"| setting | ms per step | {' | '.join(columns)} | data and bookkeeping outside the quantizer |",
        "| --- |" + " --- |" * (len(columns) + 2),
    ]
    for result in results:
        outside = result["outside_quantizer"]
        cells = [
            f"{result['network']}, K = {result['codebook_size']}, D = {result['dim']}",
            f"{result['step'] * 1e3:.1f}",
            *(f"{result['parts'][part]:.1%}" for part in columns),
            f"{outside['data'] + outside['bookkeeping']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

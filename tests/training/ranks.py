"""What each process of ``test_ranks.py`` runs: a few steps of training without noise for each of some configurations.

Started by torchrun, on one host or on two: argv is the images, the output file, and the names of the configurations;
``stop=FILE`` is the plain one that ends after a few steps with a checkpoint, ``resume=FILE`` goes on from it; with
``sharded`` in front the networks are divided. ``killed=FILE`` writes the same checkpoint and loses a process two steps
later, ``again=FILE`` goes on from it and ends there, with another.
The test itself calls ``train_all`` for one process. The result of a configuration: its losses and its last state.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import DoublePrecision
from torch.distributed.tensor import DTensor

from gmvq import GumbelSoftmax, Variance
from gmvq.functional.schedules import Constant
from gmvq.training import ImageDataModule, ShardedStrategy, TokenizerModule
from gmvq.training.averaging import AveragedWeights
from gmvq.training.stage import Adversarial

STEPS, STOP, KILL = 12, 8, 10

#: name -> the number of images per step over all processes, and options of the module and the trainer.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    # More places than images: the last process gets what is left over.
    "uneven": {"per_step": 36},
    "accumulated": {"accumulate": 2},
    "residual, shared": {"num_quantizers": 2, "shared_codebook": True, "codebook_dim": 2},
    "heads": {"groups": 2, "shared_codebook": True},
    "sharded": {"strategy": "fsdp"},
    "sharded, accumulated": {"strategy": "fsdp", "accumulate": 2, "clip": 0.05},
    "compiled": {"compiled": True},
    "judged": {"adversarial": Adversarial(0.5, start=0.6, width=4)},
    # The state at the end is the average.
    "averaged": {"average": 0.5},
}
#: The same training in half precision.
HALF: dict[str, dict[str, Any]] = {kind: {"precision": kind} for kind in ("bf16-mixed", "bf16-true")}


class Stop(Callback):
    """Write a checkpoint after some steps and end, with the schedules of the whole training; or be killed later."""

    def __init__(self, path: str, step: int = STOP, *, killed: bool = False) -> None:
        self._path, self._step, self._killed = path, step, killed

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)
            trainer.should_stop = not self._killed
        if self._killed and trainer.global_step == KILL and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Losses(Callback):
    """Of every step the loss (mean over processes) and the sum of each image; how many parameters are divided."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.seen: list[list[float]] = []
        self.divided = 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        sums = [round(float(image.double().sum()), 6) for image in batch]
        parts: list[Any] = [sums] * trainer.world_size
        loss = outputs["loss"].detach().double().clone()
        if trainer.world_size > 1:
            dist.all_reduce(loss)
            dist.all_gather_object(parts, sums)
        self.values.append(float(loss) / trainer.world_size)
        self.seen.append(sorted(value for part in parts for value in part))
        self.divided = sum(isinstance(value, DTensor) for value in module.parameters())


def train(
    images: str,
    *,
    per_step: int = 12,
    accumulate: int = 1,
    strategy: str = "ddp",
    clip: float | None = None,
    average: float = 0.0,
    precision: str | None = None,
    stop: Stop | None = None,
    resume: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Losses and last state of one configuration; this process is one of those that torchrun says."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    module = TokenizerModule(
        "tiny",
        codebook_size=8,
        dim=4,
        warmup_steps=5,
        estimator=GumbelSoftmax(noise=Constant(0.0)),
        variance=Variance(noise=Constant(0.0)),
        **options,
    )
    for mixture in module._mixtures().values():
        mixture.start_after = 5
    losses = Losses()
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=local,
        num_nodes=world // local,
        strategy=(ShardedStrategy() if strategy == "fsdp" else strategy) if world > 1 else "auto",
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        callbacks=[losses, *([AveragedWeights(average)] if average else []), *([stop] if stop else [])],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        limit_val_batches=0,
        precision=precision,
        # As precision="64-true", which a strategy that divides networks does not know.
        plugins=None if precision else [DoublePrecision()],
    )
    data = ImageDataModule(images, size=8, batch_size=per_step // world, flip=False)
    # One graph without breaks, which is run as it is: compiling it takes minutes.
    with mock.patch.object(torch, "compile", partial(torch.compile, backend="eager")):
        trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    state = {name: value.double().flatten().tolist() for name, value in module.model.state_dict().items()}
    found = {
        "losses": losses.values,
        "seen": losses.seen,
        "divided": losses.divided,
        "world": trainer.world_size,
    }
    return {**found, "compiled": module._compiled is not None, "state": state}


def train_all(images: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Results by name; of ``stop=FILE`` and ``resume=FILE`` by what is in front of the file."""
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        how, _, file = name.partition("=")
        options = {**CONFIGURATIONS, **HALF}.get(name, {})
        if file:
            options = {
                "stop": {"stop": Stop(file)},
                "killed": {"stop": Stop(file, killed=True)},
                "again": {"stop": Stop(file, KILL), "resume": file},
                "resume": {"resume": file},
            }[how.split()[-1]]
            options["strategy"] = "fsdp" if how.startswith("sharded") else "ddp"
        results[how] = train(images, **options)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = train_all(sys.argv[1], sys.argv[3:])
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    # Together: a process that leaves while another still talks to it takes that one down.
    dist.barrier()
    dist.destroy_process_group()

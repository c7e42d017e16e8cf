"""What each process of ``test_ranks.py`` runs: twenty steps of training without noise, the losses to a file.

Started by torchrun, on one host or on two, or as one plain process: argv is the images, the number of images per step
over all processes, the output file, and then ``name=value`` for the module; ``save`` and ``stop`` write a checkpoint
and end after a step, ``resume`` goes on from it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from gmvq import GumbelSoftmax, Variance
from gmvq.functional.schedules import Constant
from gmvq.training import ImageDataModule, TokenizerModule

STEPS = 20


class Stop(Callback):
    """Write a checkpoint after a step and end, with the schedules of the whole training."""

    def __init__(self, path: str, step: int) -> None:
        self._path, self._step = path, step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)
            trainer.should_stop = True


class Losses(Callback):
    """The loss of every step, as the mean over processes of what each returned."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"].detach().double().clone()
        if trainer.world_size > 1:
            dist.all_reduce(loss)
        self.values.append(float(loss) / trainer.world_size)


def main(images: str, per_step: int, out: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    accumulate = options.pop("accumulate", 1)
    save, stop, resume = (options.pop(name, None) for name in ("save", "stop", "resume"))
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
        strategy="ddp" if world > 1 else "auto",
        accumulate_grad_batches=accumulate,
        callbacks=[losses, *([Stop(save, stop)] if save else [])],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        limit_val_batches=0,
        precision="64-true",
    )
    data = ImageDataModule(images, size=8, batch_size=per_step // world, flip=False)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    if trainer.is_global_zero:
        state = {name: value.double().flatten().tolist() for name, value in module.model.state_dict().items()}
        out.write_text(json.dumps({"losses": losses.values, "state": state, "world": trainer.world_size}))
    if world > 1:  # together: a process that leaves while another still talks to it takes that one down
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    pairs = [argument.split("=") for argument in sys.argv[4:]]
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), {name: json.loads(value) for name, value in pairs})

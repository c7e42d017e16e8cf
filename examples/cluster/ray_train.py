"""Train a tokenizer with Ray Train: started again from the last checkpoint when a worker is lost.

    pip install 'ray[train]' 'gmvq[train,data]'
    python examples/cluster/ray_train.py --data photos --out /shared/runs/photos --workers 2 --steps 1500 [--gpu]

The folder of the run has to lie on a disk that all machines share.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gmvq.training import ImageDataModule, TokenizerModule


def train(options: dict[str, Any]) -> None:
    """What every worker does. Put in your own module, data and network as you like."""
    from lightning.pytorch import Trainer
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from gmvq.training.callbacks import LastCheckpoint

    run_dir = Path(options["out"])
    module = TokenizerModule(network=options["network"], codebook_size=options["codebook_size"])
    data = ImageDataModule(
        options["data"], size=options["size"], batch_size=options["batch"] // options["workers"]
    )
    trainer = Trainer(
        max_steps=options["steps"],
        accelerator="gpu" if options["gpu"] else "cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[LastCheckpoint(run_dir, options["save_every"])],
        default_root_dir=run_dir,
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    last = run_dir / "checkpoints" / "last.ckpt"
    trainer.fit(
        module,
        data,
        ckpt_path=last if last.is_file() else None,
        weights_only=True if last.is_file() else None,
    )
    if trainer.is_global_zero:
        module.model.save_pretrained(run_dir / "model")


def main() -> None:
    """Start the workers."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="photos")
    parser.add_argument("--out", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--network", default="tiny")
    parser.add_argument("--gpu", action="store_true")
    numbers = {"workers": 2, "steps": 1500, "batch": 64, "size": 32, "codebook_size": 256, "save_every": 200}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = vars(parser.parse_args())
    TorchTrainer(
        train,
        train_loop_config=options,
        scaling_config=ScalingConfig(num_workers=options["workers"], use_gpu=options["gpu"]),
        run_config=RunConfig(
            name="gmvq", storage_path=options["out"], failure_config=FailureConfig(max_failures=3)
        ),
    ).fit()


if __name__ == "__main__":
    main()

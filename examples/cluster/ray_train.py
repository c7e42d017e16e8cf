"""Train on a Ray cluster: where a worker is lost, Ray starts all of them anew, and they go on from the checkpoint.

    pip install 'ray[train]'
    python examples/cluster/ray_train.py --config configs/imagenet256.yaml --out /shared/runs/imagenet --workers 8 --gpu

More options are those of ``gmvq fit``. The configuration, the data and the folder of the run lie on a disk that all
machines share. ``--global_batch`` images make a step whatever the number of workers, as in torchrun.sh: the same line
with other ``--workers`` goes on with the same order of the data and the same statistics (docs/training.md).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import ray.train
from lightning.pytorch import strategies
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from ray.train.torch import TorchTrainer

from gmvq.cli.main import main


def work(plan: dict) -> None:
    """What every worker runs: ``gmvq fit`` as one of the processes that Ray has connected."""
    os.chdir(plan["folder"])
    # By its module: what is pickled with this function would be a copy of the registry.
    strategies.StrategyRegistry.register("ray", RayDDPStrategy, cluster_environment=RayLightningEnvironment())
    workers = ray.train.get_context().get_world_size()
    if plan["batch"] % workers:
        raise ValueError(f"{plan['batch']} images of a step cannot be divided among {workers} workers")
    options = ["--ckpt_path", "auto", "--data.batch_size", str(plan["batch"] // workers)]
    options += ["--trainer.strategy", "ray", "--trainer.devices", "auto", "--trainer.num_nodes", "1"]
    if code := main(["fit", *plan["options"], *options]):
        raise RuntimeError(f"gmvq fit ended with exit code {code}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--gpu", action="store_true", help="one for each worker")
    parser.add_argument(
        "--global_batch", type=int, default=256, help="images of a step, of all workers together"
    )
    parser.add_argument("--restarts", type=int, default=3, help="how often lost workers are started again")
    own, _options = parser.parse_known_args()
    _out = own.out.resolve()
    _plan = {"folder": str(Path.cwd()), "batch": own.global_batch, "options": [*_options, "--out", str(_out)]}
    TorchTrainer(
        work,
        train_loop_config=_plan,
        scaling_config=ray.train.ScalingConfig(num_workers=own.workers, use_gpu=own.gpu),
        run_config=ray.train.RunConfig(
            name=_out.name,
            storage_path=str(_out.parent / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=own.restarts),
        ),
    ).fit()

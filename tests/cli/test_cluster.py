"""The scripts of examples/cluster and the configurations for eight GPUs, dry, on synthetic shards."""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml

from gmvq.training import read_checkpoint

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "cluster"
DRY = [
    *(
        "--model.network",
        "tiny",
        "--model.codebook_size",
        "16",
        "--model.warmup_steps",
        "1",
        "--data.size",
        "16",
    ),
    *("--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.val_check_interval", "2"),
    *("--logger", "none", "--save_every", "1"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures in two shards of Parquet."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets", reason="datasets is not installed")
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder = tmp_path_factory.mktemp("shards")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 20, 18, 3), dtype=np.uint8)
    encoded = []
    for picture in pixels:
        file = io.BytesIO()
        image.fromarray(picture).save(file, "png")
        encoded.append({"bytes": file.getvalue(), "path": None})
    for part in range(2):
        table = pyarrow.table({"image": encoded[30 * part : 30 * part + 30]})
        parquet.write_table(table, folder / f"train-{part:05}-of-00002.parquet")
    return folder


@pytest.mark.parametrize("config", ["imagenet256", "ffhq256"])
def test_dry_run(gmvq: Run, shards: Path, tmp_path: Path, config: str) -> None:
    """Begins, and goes on from its checkpoint, by one command."""
    out = tmp_path / "run"
    options = ["--config", ROOT / "configs" / f"{config}.yaml", "--data.path", shards, *DRY]
    options += ["--data.batch_size", "8", "--trainer.devices", "1", "--trainer.strategy", "auto"]
    options += ["--out", out, "--ckpt_path", "auto"]
    for steps in (2, 3):
        result = gmvq("fit", *options, "--trainer.max_steps", steps)
        assert result.code == 0, result.err
        assert read_checkpoint(out / "checkpoints" / "last.ckpt")["global_step"] == steps
    assert [record["from_step"] for record in json.loads((out / "run.json").read_text())] == [0, 2]
    assert not (tmp_path / "run-2").exists()


def test_auto_begins_again_without_a_checkpoint(here: Any, gmvq: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*here.small, "--trainer.max_steps", "2", "--out", out]
    assert gmvq("fit", *options).code == 0
    (out / "checkpoints" / "last.ckpt").unlink()
    assert gmvq("fit", *options, "--ckpt_path", "auto").code == 0
    assert (out / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "run-2").exists()
    lines = [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert lines == [2]


def test_a_checkpoint_is_read_once(
    here: Any, gmvq: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    assert gmvq("fit", *here.small, "--trainer.max_steps", "1", "--out", tmp_path / "run").code == 0
    reads: list[Any] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: reads.append(file) or load(file, **options))
    result = gmvq("fit", "--out", tmp_path / "run", "--ckpt_path", "last", "--trainer.max_steps", "2")
    assert result.code == 0, result.err
    assert len(reads) == 1


def test_torchrun(shards: Path, tmp_path: Path) -> None:
    """Two processes, and half of the images of a step each."""
    environment = {
        **os.environ,
        **{"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        **{
            "CONFIG": str(ROOT / "configs" / "ffhq256.yaml"),
            "OUT": str(tmp_path / "run"),
            "GPUS": "2",
            "RESTARTS": "0",
        },
        "GLOBAL_BATCH": "8",
    }
    argv = ["bash", SCRIPTS / "torchrun.sh", *DRY, "--data.path", shards, "--trainer.max_steps", "2"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=250, check=False)
    if "gloo" in done.stderr.lower() and "unable" in done.stderr.lower():
        pytest.skip("gloo cannot be used here")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["batch_size"] == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())[0]["processes"] == 2
    uneven = subprocess.run(
        ["bash", SCRIPTS / "torchrun.sh"],
        env={**environment, "GLOBAL_BATCH": "9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert uneven.returncode == 2
    assert "GLOBAL_BATCH=9 images cannot be divided among 2" in uneven.stderr


def stand_ins(folder: Path, **lines: str) -> dict[str, str]:
    """An environment with commands that note their arguments in NAME.said, and end with a line."""
    for name, line in lines.items():
        file = folder / name
        file.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/{name}.said\n{line}\n')
        file.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("nodes", "restarts"),
    [
        (["--nnodes", "1", "--nproc_per_node", "2"], {}),
        (["--nnodes", "2", "--nproc_per_node", "2"], {"NODES": "2", "HEAD": "first:29500", "RESTARTS": "5"}),
    ],
    ids=["one machine", "two machines"],
)
def test_what_torchrun_is_told(tmp_path: Path, nodes: list[str], restarts: dict[str, str]) -> None:
    run = {"CONFIG": "c.yaml", "OUT": "/shared/run", "GPUS": "2", "GLOBAL_BATCH": "8", **restarts}
    environment = {**stand_ins(tmp_path, torchrun="exit 0"), **run}
    script = ["bash", SCRIPTS / "torchrun.sh", "--name", "mine"]
    assert subprocess.run(script, env=environment, check=False).returncode == 0
    said = (tmp_path / "torchrun.said").read_text().split()
    assert said[:4] == nodes
    assert said[4:6] == ["--max_restarts", restarts.get("RESTARTS", "3")]
    meeting = (
        ["--rdzv_backend", "c10d", "--rdzv_endpoint", "first:29500", "--rdzv_id", "run"]
        if restarts
        else ["--standalone"]
    )
    assert said[6 : said.index("-m")] == meeting
    options = said[said.index("fit") :]
    assert options[options.index("--trainer.num_nodes") + 1] == nodes[1]
    assert options[options.index("--data.batch_size") + 1] == ("2" if restarts else "4")
    if restarts:
        del environment["HEAD"]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "address:port of the first machine" in done.stderr


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ([], (8, False, 3)),
        (["--gpu"], (8, True, 3)),
        (["--restarts", "7", "--workers", "2"], (2, False, 7)),
    ],
)
def test_what_ray_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], meant: tuple[int, bool, int]
) -> None:
    """With a stand-in for Ray, installed or not: ``test_ray`` runs it."""
    told: dict[str, Any] = {}
    parts = ("ray", "ray.train", "ray.train.lightning", "ray.train.torch")
    ray = {name: mock.MagicMock(name=name) for name in parts}
    ray["ray"].train = ray["ray.train"]
    for name in ("ScalingConfig", "RunConfig", "FailureConfig"):
        setattr(ray["ray.train"], name, lambda **more: told.update(more))
    for name, module in ray.items():
        monkeypatch.setitem(sys.modules, name, module)
    argv = ["ray_train.py", "--out", str(tmp_path / "run"), "--seed", "3", *options]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(SCRIPTS / "ray_train.py"), run_name="__main__")
    assert (told["num_workers"], told["use_gpu"], told["max_failures"]) == meant
    ((_, plan),) = ray["ray.train.torch"].TorchTrainer.call_args_list
    assert plan["train_loop_config"]["options"] == ["--seed", "3", "--out", str(tmp_path / "run")]
    ray["ray.train.torch"].TorchTrainer.return_value.fit.assert_called_once_with()


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(1800)  # on a busy machine the imports of Ray's processes take minutes
def test_ray(shards: Path, tmp_path: Path) -> None:
    """Two workers with half of the images of a step each."""
    pytest.importorskip("ray.train.lightning", reason="ray[train] is not installed")
    more = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_worker_register_timeout_seconds": "600"}
    argv = [sys.executable, SCRIPTS / "ray_train.py", "--config", ROOT / "configs" / "ffhq256.yaml", *DRY]
    argv += ["--data.path", shards, "--out", tmp_path / "run", "--global_batch", "8", "--restarts", "0"]
    done = subprocess.run(
        [*argv, "--workers", "2", "--trainer.max_steps", "2"],
        env={**os.environ, **more, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["batch_size"] == 4
    (record,) = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["from_step"], record["processes"]) == (0, 2)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (143, True), (1, False)])
def test_slurm(gmvq: Run, tmp_path: Path, code: int, requeued: bool) -> None:
    """With stand-ins for srun and scontrol: what is run, and that a run that was stopped goes back into the queue."""
    environment = {
        **stand_ins(tmp_path, srun=f"exit {code}", scontrol="exit 0"),
        **{
            "SLURM_NTASKS": "16",
            "SLURM_NNODES": "2",
            "SLURM_JOB_ID": "77",
        },
        **{"CONFIG": str(ROOT / "configs" / "imagenet256.yaml"), "OUT": "/shared/run"},
    }
    argv = ["bash", SCRIPTS / "slurm.sh", "--name", "mine"]
    assert subprocess.run(argv, env=environment, check=False).returncode == code
    said = tmp_path / "scontrol.said"
    assert (said.read_text().split() == ["requeue", "77"]) if requeued else not said.exists()
    options = (tmp_path / "srun.said").read_text().split()
    start = options.index("gmvq") + 2
    assert options[start - 3 : start] == ["-m", "gmvq", "fit"]
    result = gmvq("fit", *options[start:], "--print_config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    trainer = config["trainer"]
    assert (config["data"]["batch_size"], trainer["num_nodes"], int(trainer["devices"])) == (16, 2, 8)
    assert (config["ckpt_path"], config["name"], trainer["strategy"]) == ("auto", "mine", "ddp")

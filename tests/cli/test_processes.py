"""What needs a process of its own: Ctrl-C, and two processes that train together, and stop together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gmvq.training import load_model, read_checkpoint

Run = Callable[..., Any]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for_steps(run_dir: Path, process: subprocess.Popen[str]) -> None:
    """Until steps have been logged."""
    deadline = time.monotonic() + 200
    while not (run_dir / "history.jsonl").is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def needs_gloo() -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(here: Any, gmvq: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "stopped"
    command = [sys.executable, "-m", "gmvq", "fit", *here.small]
    command += ["--out", str(run_dir), "--trainer.max_steps", "100000", "--trainer.val_check_interval", "7"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_steps(run_dir, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.rstrip().splitlines()[-1].endswith(f"Go on with: gmvq fit --ckpt_path {run_dir}")
    assert "Traceback" not in err
    step = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped by SIGINT after step {step}, with a checkpoint" in err
    load_model(run_dir)
    result = gmvq("fit", "--ckpt_path", run_dir, "--trainer.max_steps", step + 2)
    assert result.code == 0, result.err
    assert f"going on after step {step}" in result.err


def test_two_processes(here: Any, tmp_path: Path) -> None:
    """Lightning starts the second; of what torchrun starts see ``test_cluster.py``, of ``ddp`` ``test_ranks.py``."""
    needs_gloo()
    run_dir = tmp_path / "two"
    command = [sys.executable, "-m", "gmvq", "fit", *here.small, "--out", str(run_dir)]
    command += ["--trainer.devices", "2", "--trainer.strategy", "fsdp", "--trainer.max_steps", "4"]
    command += ["--data.batch_size", "4"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)
    if "gloo" in done.stderr.lower() and "unable" in done.stderr.lower():
        pytest.skip(f"gloo cannot be used here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run folder:") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    assert done.stdout.count("latent positions") == 1
    assert read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["global_step"] == 4
    steps = (run_dir / "history.jsonl").read_text().count('"train/mse"')
    assert steps == 2
    load_model(run_dir)


def started(command: list[str], slurm: bool) -> list[subprocess.Popen[str]]:
    """The processes of a run: one, from which Lightning starts the other, or two as Slurm starts its tasks."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "gmvq", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job |= {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    tasks = [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    return [
        subprocess.Popen(command, env={**ENVIRONMENT, **task}, stderr=subprocess.PIPE, text=True)
        for task in (tasks if slurm else [{}])
    ]


@pytest.mark.parametrize(
    ("slurm", "every"),
    [
        pytest.param(False, ["--trainer.log_every_n_steps", "0", "--save_every", "7"], id="one is told"),
        pytest.param(True, ["--save_every", "100000"], id="both are told, under Slurm"),
    ],
)
def test_two_processes_stop_together(
    here: Any, gmvq: Run, tmp_path: Path, slurm: bool, every: list[str]
) -> None:
    """On SIGTERM: after the same step, with one checkpoint, from which a run goes on."""
    needs_gloo()
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "gmvq", "fit", *here.small, *every, "--out", str(run_dir)]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "4"]
    processes = started([*command, "--trainer.max_steps", "100000"], slurm)
    try:
        wait_for_steps(run_dir, processes[0])
        for process in processes:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143] * len(processes), said
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    step = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped by SIGTERM after step {step}, with a checkpoint" in said[0]
    assert "Traceback" not in "".join(said)
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--data.batch_size", "8"]
    result = gmvq("fit", "--ckpt_path", run_dir, *one, "--trainer.max_steps", step + 2)
    assert result.code == 0, result.err
    assert f"going on after step {step}" in result.err
    assert read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["global_step"] == step + 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

"""What needs a process of its own: Ctrl-C, and two processes that train together."""

from __future__ import annotations

import os
import signal
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


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(here: Any, gmvq: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "stopped"
    command = [sys.executable, "-m", "gmvq", "fit", *here.small]
    command += ["--out", str(run_dir), "--trainer.max_steps", "100000", "--trainer.val_check_interval", "7"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not (run_dir / "history.jsonl").is_file():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.2)
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
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
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

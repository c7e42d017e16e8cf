"""Two processes train; one is killed. The other ends by itself, and says which was lost and how to go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPT = str(Path(__file__).with_name("lost_rank.py"))
#: Processes of a run are told apart by the port that they meet at.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1"}

pytestmark = [
    pytest.mark.xdist_group("ranks"),
    # On a busy machine the imports alone take minutes.
    pytest.mark.timeout(700),
    pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are known from /proc"),
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch has no gloo backend",
    ),
]


@pytest.mark.parametrize(
    ("phase", "rank", "launcher"),
    [
        ("start", 1, "lightning"),
        ("step", 0, "lightning"),
        ("validation", 1, "torchrun"),
        ("checkpoint", 1, "lightning"),
    ],
)
def test_the_other_process_says_so(phase: str, rank: int, launcher: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (64, 8, 8, 3), dtype=np.uint8))
    fit = [
        "fit",
        "--data.path",
        "images.npy",
        "--data.size",
        "8",
        "--data.batch_size",
        "4",
        "--model.dim",
        "4",
    ]
    fit += [
        "--model.codebook_size",
        "8",
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "2",
        "--logger",
        "none",
    ]
    fit += ["--trainer.strategy", "ddp", "--trainer.max_steps", "400", "--trainer.val_check_interval", "3"]
    fit += ["--save_every", "2", "--out", "run", "--trainer.enable_progress_bar", "false"]
    start = [sys.executable]
    if launcher == "torchrun":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with (tmp_path / "said.txt").open("w") as said:
        # No pipe: its end would be that of the last process to hold it.
        command = [*start, SCRIPT, phase, str(rank), *fit]
        code = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, stdout=said, stderr=said, timeout=400)
    assert code.returncode != 0
    text = _until(tmp_path / "said.txt", f"rank {rank} (process ")
    assert "was lost" in text
    if phase == "start":
        assert "begin anew with: gmvq fit --data.path images.npy" in text
    else:
        assert "with: gmvq fit --ckpt_path run" in text


def _until(file: Path, sign: str, seconds: float = 200.0) -> str:
    """The text of a file, once it has the sign: the process that started the others may be the one that was killed."""
    end = time.monotonic() + seconds
    while sign not in file.read_text() and time.monotonic() < end:
        time.sleep(0.1)
    text = file.read_text()
    assert sign in text, text
    return text

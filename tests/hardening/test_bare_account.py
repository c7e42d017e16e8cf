"""Every command, in one process of its own: no network, no home directory, and a working folder that takes no file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gmvq.cli.main import COMMANDS, ELSEWHERE
from gmvq.models import build_autoencoder

#: Runs each line of its input, below an audit hook that refuses what is written in the working folder or at home.
_RUN = """
import os, shlex, sys
here, state = os.getcwd(), {"on": True}
WRITES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.symlink": 1, "os.link": 1}
def watch(event, arguments):
    path = None
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = arguments[0]
    elif event in WRITES:
        path = arguments[WRITES[event]]
    if isinstance(path, (str, bytes, os.PathLike)):
        place = os.path.abspath(os.fsdecode(path))
        if any(place == folder or place.startswith(os.path.join(folder, "")) for folder in (here, os.environ["HOME"])):
            raise PermissionError(13, "Permission denied", place)
sys.addaudithook(watch)
from gmvq.cli.main import main
from gmvq_bench.commands import COMMANDS
for line in sys.stdin.read().splitlines():
    print(main(shlex.split(line), more=COMMANDS), line, flush=True)
"""


#: Not run here: a page that stays open, measurements of minutes, and what belongs to a clone of this repository.
_NOT_HERE = {"app", "bench", "study", "document"}
_SUITE = """
{name: small, description: one run, seeds: [0],
 settings: {one: {data: IMAGES, size: 8, codebook_size: 8, steps: 1, batch_size: 8}},
 methods: {gm-vq: {quantizer: gm-vq, grid: {lr: [0.004]}}}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pictures and a model, beside a working folder that is read-only."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=3, dim=4, codebook_size=8).eval()
    with torch.no_grad():
        model.quantizer.init_codebook(model.encoder(torch.rand(8, 3, 16, 16)).movedim(1, -1))  # pyright: ignore
    pictures = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), np.uint8)
    np.save(tmp_path / "images.npy", pictures)
    model.save_pretrained(
        tmp_path / "model", metadata={"data": {"path": str(tmp_path / "images.npy"), "size": 16}}
    )
    from PIL import Image

    Image.fromarray(pictures[0]).save(tmp_path / "photo.png")
    (tmp_path / "small.yaml").write_text(_SUITE.replace("IMAGES", str(tmp_path / "images.npy")))
    (tmp_path / "here").mkdir(mode=0o555)
    # In place of a home directory, so that no process can make one, be it root's.
    (tmp_path / "nowhere").touch()
    return tmp_path


LINES = (
    "evaluate {0}/model --split all",
    "reconstruct {0}/model {0}/photo.png --out {0}/rec",
    "inspect {0}/model",
    "encode {0}/model --out {0}/tokens --quiet",
    "tokens verify {0}/tokens",
    "tokens stats {0}/tokens",
    "decode {0}/tokens --checkpoint {0}/model --out {0}/pictures --quiet",
    "sample mixture {0}/model --n 2 --size 16 --out {0}/drawn",
    "push {0}/model me/model --dry_run {0}/pushed",
    "export {0}/model --format torch-export --limit 8 --out {0}/exported",
    "compare --list",
    "completion bash",
    "doctor",
    "fit --data.path {0}/images.npy --out {0}/run --trainer.max_steps 2 --logger csv --data.size 16 "
    "--trainer.accelerator cpu --model.dim 4 --model.codebook_size 8 --trainer.enable_progress_bar false",
    "transplant {0}/model --data.path {0}/images.npy --out {0}/moved --trainer.max_steps 2 --logger none "
    "--data.size 16 --trainer.accelerator cpu --trainer.enable_progress_bar false",
    "runs {0}",
    "estimate {0}/run/config.yaml --device cpu",
    "prior fit {0}/tokens --out {0}/prior --trainer.max_steps 2 --logger none --model.size tiny "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false",
    "sample {0}/prior {0}/model --n 2 --out {0}/drawn_tokens",
    "compare --suite {0}/small.yaml --workers 1 --out {0}/compared",
    "rd --data {0}/images.npy --size 8 --codebook_sizes 4 --betas --steps 2 --prior_steps 2 --images 3 "
    "--batch_size 8 --out {0}/rates",
    "uncertainty {0}/model --split all --bins 2 --resamples 2 --json {0}/uncertainty.json",
)


def test_no_command_is_forgotten() -> None:
    named = {line.split()[0] for line in LINES}
    assert named | _NOT_HERE == {*COMMANDS, *ELSEWHERE}


@pytest.mark.timeout(900)  # on a busy machine the imports alone take minutes
def test_every_command(place: Path) -> None:
    gone = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "HF_HOME")
    }
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input="\n".join(LINES).format(place),
        cwd=place / "here",
        env={**gone, "HOME": str(place / "nowhere"), "GMVQ_DEBUG": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    ended = [
        line
        for line in done.stdout.splitlines()
        if (line[:1].isdecimal() and str(place) in line) or "--list" in line
    ]
    for line in LINES:
        assert f"0 {line.format(place)}" in done.stdout, f"{ended}\n{done.stderr[-3000:]}"
    assert not list((place / "here").iterdir())
    assert not (place / "nowhere").read_bytes()

"""The commands that ``broken_writes.py`` breaks: what they need, how they are started, and how one goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gmvq import PyramidGMVQ
from gmvq.models import build_autoencoder

_FIT = ["fit", "--data.path", "images.npy", "--data.size", "8", "--data.batch_size", "8", "--model.dim", "4"]
_FIT += [
    "--model.codebook_size",
    "16",
    "--model.warmup_steps",
    "3",
    "--trainer.accelerator",
    "cpu",
    "--logger",
    "none",
]
_FIT += ["--trainer.max_steps", "8", "--trainer.val_check_interval", "4", "--trainer.log_every_n_steps", "2"]
_FIT += ["--trainer.enable_progress_bar", "false", "--save_every", "2"]
_GO_ON = ["fit", "--ckpt_path", "out", "--trainer.enable_progress_bar", "false"]
_PRIOR = [
    "prior",
    "fit",
    "tokens",
    "--trainer.accelerator",
    "cpu",
    "--trainer.max_steps",
    "6",
    "--logger",
    "none",
]
_PRIOR += ["--trainer.val_check_interval", "3", "--trainer.log_every_n_steps", "2", "--save_every", "2"]
_PRIOR += ["--model.size", "tiny", "--data.batch_size", "8", "--trainer.enable_progress_bar", "false"]
_TRANSPLANT = ["transplant", "model", *_FIT[1:], "--decoder_after", "2"]
#: A discriminator and a perceptual distance beside the bound.
_STAGE = ["--model.perceptual", "1", "--model.adversarial.weight", "0.5", "--model.adversarial.start", "0"]
_STAGE += ["--model.adversarial.width", "4"]
_RD = ["rd", "--codebook_sizes", "8", "16", "--betas", "--steps", "3", "--prior_steps", "3", "--size", "8"]
_SUITE = """
name: broken
description: one setting, one method, one seed
settings:
  small: {data: images.npy, size: 8, codebook_size: 8, steps: 4, batch_size: 8}
methods:
  gm-vq: {quantizer: gm-vq, grid: {lr: [0.004]}}
seeds: [0]
"""


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes:
        name: of the case.
        argv: the arguments, without those for the output.
        out: the option of the output.
        resume: the arguments that go on with a run that has a checkpoint.
        varies: pattern of files that are different every time, such as a list in the order in which work ended.
    """

    name: str
    argv: list[str]
    out: tuple[str, ...] = ("--out", "out")
    resume: list[str] | None = None
    varies: str | None = None

    def start(self, work: Path) -> list[str]:
        return [*self.argv, *self.out]

    def again(self, work: Path) -> list[str]:
        """How a user goes on."""
        if self.resume is None:
            return self.start(work)
        if (work / "out" / "checkpoints" / "last.ckpt").is_file():
            return self.resume
        if (work / "out").exists():
            shutil.rmtree(work / "out")  # nothing to go on from: the run begins anew
        return self.start(work)


CASES = [
    # Lightning logs a step after its checkpoint: a kill between the two loses that line of the history.
    Case("fit", _FIT, resume=_GO_ON, varies="history.jsonl"),
    Case("fit, adversarial", [*_FIT, *_STAGE], resume=_GO_ON, varies="history.jsonl"),
    Case("transplant", _TRANSPLANT, resume=_GO_ON, varies="history.jsonl"),
    Case("prior fit", _PRIOR, resume=["prior", "fit", "--ckpt_path", "out"]),
    Case("encode", ["encode", "model", "--rows_per_shard", "16", "--batch_size", "8", "--quiet"]),
    Case("encode, bad items", ["encode", "model", "--data", "pictures", "--rows_per_shard", "4", "--quiet"]),
    Case(
        "encode, a pyramid", ["encode", "pyramid", "--rows_per_shard", "16", "--batch_size", "8", "--quiet"]
    ),
    Case("decode", ["decode", "tokens", "--quiet"]),
    Case("decode to a table", ["decode", "tokens", "--quiet"], out=("--out", "out/images.parquet")),
    Case("sample", ["sample", "mixture", "model", "--n", "12", "--device", "cpu"]),
    Case("reconstruct", ["reconstruct", "model", "pictures"]),
    Case("evaluate", ["evaluate", "model", "--split", "all"], out=("--json", "out/metrics.json")),
    Case("export", ["export", "model", "--format", "torch-export"]),
    Case("export to ONNX", ["export", "model", "--format", "onnx"]),
    Case("rd", _RD),
    Case("compare", ["compare", "--suite", "broken.yaml", "--workers", "1"]),
]


def prepare(work: Path, run: Callable[..., Any]) -> None:
    """Write what the commands need: images, an untrained model, its tokens."""
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, (96, 2, 2, 3))
    np.save(work / "images.npy", np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8))
    (work / "pictures").mkdir()
    for number in range(10):
        pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(work / "pictures" / f"{number}.png")
    (work / "broken.yaml").write_text(_SUITE)
    torch.manual_seed(0)
    model = build_autoencoder("tiny", codebook_size=16, dim=4).eval()
    with torch.no_grad():
        latents = model.encoder(torch.rand(64, 3, 8, 8)).movedim(1, -1)
    quantizer: Any = model.quantizer
    quantizer.init_codebook(latents.reshape(-1, quantizer.dim))
    notes = {"data": {"path": "images.npy", "size": 8, "channels": 3}}
    model.save_pretrained(work / "model", metadata=notes)
    pyramid = build_autoencoder("tiny", quantizer=PyramidGMVQ(4, 16, 2)).eval()
    pyramid.quantizer.init_codebook(latents)  # pyright: ignore[reportCallIssue]
    pyramid.save_pretrained(work / "pyramid", metadata=notes)
    ended = run(["encode", "model", "--out", "tokens", "--rows_per_shard", "16", "--quiet"], work)
    assert ended.code == 0, ended.text

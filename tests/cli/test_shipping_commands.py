"""gmvq export and gmvq push on a trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.export import load_exported
from gmvq.models import VQAutoencoder
from gmvq.training import load_model

Run = Callable[..., Any]


def test_export_checks_on_the_training_data(here: Any, gmvq: Run, tmp_path: Path) -> None:
    result = gmvq("export", here.run_dir, "--out", tmp_path / "out", "--split", "train", "--limit", "20")
    assert result.code == 0, result.err
    assert "multiples of 4, at least 8" in result.out
    assert "indices equal" in result.out
    assert "encoder.onnx" in result.err
    notes = json.loads((tmp_path / "out" / "export.json").read_text())
    assert notes["check"]["images"] == 20 + 14
    assert "images.npy" in notes["check"]["source"]
    images = torch.from_numpy(np.load("images.npy")[:5]).permute(0, 3, 1, 2).float() / 255
    exported = load_exported(tmp_path / "out")
    assert torch.equal(exported.encode(images), load_model(here.run_dir).encode(images))


def test_export_where_the_data_are_gone(here: Any, gmvq: Run, tmp_path: Path) -> None:
    model = load_model(here.run_dir)
    model.save_pretrained(tmp_path / "model")
    result = gmvq("export", tmp_path / "model", "--format", "torch-export", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "compared on random images; give --data PATH" in result.err
    model.save_pretrained(tmp_path / "model", metadata={"data": {"path": "gone.npy", "size": 8}})
    result = gmvq("export", tmp_path / "model", "--format", "torch-export", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "compared on random images: there is no 'gone.npy'" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "runs/small"], "--out"),
        (["export", "runs/small", "--out", "images.npy"], "--out is a folder, but images.npy is a file"),
        (["export", "runs/small", "--out", "x", "--format", "tflite"], "invalid choice: 'tflite'"),
        (["export", "runs/small", "--out", "x", "--data", "nowhere"], "there is no 'nowhere'"),
        (["export", "runs/smal", "--out", "x"], "did you mean runs/small?"),
        (["push", "runs/small"], "OWNER/NAME"),
        (["push", "runs/small", "tok", "--dry_run", "x"], "expected OWNER/NAME, got 'tok'"),
        (["push", "runs/small", "me/tok", "--dry_run", "runs"], "--dry_run takes a new or empty folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse(here: Any, gmvq: Run, arguments: list[str], message: str) -> None:
    result = gmvq(*arguments)
    assert result.code == 2
    assert message in result.err
    assert not Path("x").exists()


def test_push_to_a_folder(here: Any, gmvq: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = gmvq("push", here.run_dir, "me/tok", "--dry_run", out, "--license", "cc-by-4.0")
    assert result.code == 0, result.err
    assert "nothing was uploaded" in result.out
    assert result.err == ""
    card = (out / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "| trained on | images.npy at 8 x 8 pixels |" in card
    assert "| optimizer steps | 6 |" in card
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(VQAutoencoder.from_pretrained(out).encode(x), load_model(here.run_dir).encode(x))
    assert "no licence is stated" in gmvq("push", here.run_dir, "me/tok", "--dry_run", tmp_path / "b").err

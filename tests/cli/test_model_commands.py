"""gmvq evaluate, reconstruct and inspect on a trained model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gmvq.training import load_model

Run = Callable[..., Any]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two good images of the same stem and odd sizes, a grey one, a truncated one, and a text file."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise[:13, :21]).save(folder / "a.png")
    Image.fromarray(noise[:9, :8]).save(folder / "inner" / "a.bmp")
    Image.fromarray(noise[:16, :16, 0]).save(folder / "grey.png")
    Image.fromarray(noise).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "broken.png").write_bytes(data[: len(data) // 2])
    (folder / "whole.png").unlink()
    (folder / "notes.txt").write_text("no image")
    return folder


def test_evaluate_writes_json_beside_the_model(here: Any, gmvq: Run) -> None:
    expected = json.loads((here.run_dir / "metrics.json").read_text())
    (here.run_dir / "metrics.json").unlink()
    result = gmvq("evaluate", here.run_dir, "--batch_size", "8")
    assert result.code == 0, result.err
    assert "PSNR" in result.out
    assert f"written to {here.run_dir / 'metrics.json'}" in result.err
    found = json.loads((here.run_dir / "metrics.json").read_text())
    assert found["images"] == expected["images"]
    for key in ("mse", "perplexity", "elbo"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5)


def test_evaluate_of_other_images_takes_all_of_them(here: Any, gmvq: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (20, 20), (90 * i, 40, 200)).save(folder / f"{i}.png")
    target = tmp_path / "figures.json"
    result = gmvq("evaluate", here.run_dir, "--data", folder, "--json", target)
    assert result.code == 0, result.err
    figures = json.loads(target.read_text())
    assert figures["images"] == 2
    assert "nats/position" in figures["units"]["information"]
    result = gmvq("evaluate", here.run_dir, "--data", folder, "--split", "test")
    assert result.code == 2
    assert "--split all" in result.err


def test_evaluate_elsewhere_has_names_of_its_own(here: Any, gmvq: Run, tmp_path: Path) -> None:
    before = (here.run_dir / "metrics.json").read_bytes()
    result = gmvq(
        "evaluate", here.checkpoint, "--split", "validation", "--limit", "2", "--bound_samples", "2"
    )
    assert result.code == 0, result.err
    figures = json.loads((here.run_dir / "metrics-validation-first2.json").read_text())
    assert figures["images"] == 2
    assert figures["importance_weighted"] is not None
    target = tmp_path / "deep" / "figures.json"
    result = gmvq("evaluate", here.run_dir / "model", "--limit", "2", "--json", target)
    assert result.code == 0, result.err
    assert json.loads(target.read_text())["images"] == 2
    assert (here.run_dir / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no 'nothing'"),
        (["runs/smal"], "did you mean runs/small?"),
        (["runs"], "runs holds no model"),
        (["images.npy"], "images.npy ("),
        (["runs/small", "--data", "nothing"], "there is no 'nothing'"),
        (["runs/small", "--size", "-3"], "expected a positive whole number, got '-3'"),
        (["runs/small", "--device", "nonsense"], "--device nonsense cannot be used here"),
        ([], "the following arguments are required: CKPT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_evaluate_misused(here: Any, gmvq: Run, arguments: list[str], message: str) -> None:
    result = gmvq("evaluate", *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_reconstruct_does_what_it_can(here: Any, gmvq: Run, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = gmvq("reconstruct", here.run_dir, pictures, tmp_path / "absent.png", "--out", out)
    assert result.code == 1
    assert {path.name for path in out.iterdir()} == {"a.png", "a-2.png", "grey.png", "skipped.jsonl"}
    sizes = {path.name: Image.open(path).size for path in out.glob("*.png")}
    assert sizes == {"a.png": (21, 13), "a-2.png": (8, 9), "grey.png": (16, 16)}
    assert result.out.count(" dB") == 4
    assert "broken.png: " in result.err
    assert "absent.png: there is no such file" in result.err
    assert "2 items could not be used" in result.err


def test_reconstruct_is_the_model_and_overwrites_nothing(
    here: Any, gmvq: Run, pictures: Path, tmp_path: Path
) -> None:
    grey = pictures / "grey.png"
    for _ in range(2):
        assert gmvq("reconstruct", here.checkpoint, grey, "--out", tmp_path / "out").code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"grey.png", "grey-2.png"}
    image = torch.from_numpy(np.asarray(Image.open(grey).convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
    expected = load_model(here.checkpoint).reconstruct(image)[0].clamp(0, 1).mul(255).round()
    found = np.asarray(Image.open(tmp_path / "out" / "grey-2.png")).transpose(2, 0, 1)
    assert np.abs(found - expected.numpy()).max() <= 1


def test_reconstruct_nothing(here: Any, gmvq: Run, tmp_path: Path) -> None:
    result = gmvq("reconstruct", here.run_dir, tmp_path, "--out", tmp_path / "out")
    assert result.code == 2
    assert "there is no image in" in result.err


def test_inspect(here: Any, gmvq: Run, tmp_path: Path) -> None:
    result = gmvq("inspect", here.run_dir, "--out", tmp_path)
    assert result.code == 0, result.err
    assert "16 codes of 4 features" in result.out
    assert "usage" in result.out
    for name in ("codebook.png", "codebook-most-used.png"):
        assert min(Image.open(tmp_path / name).size) > 8


def test_inspect_where_the_data_are_gone(here: Any, gmvq: Run, tmp_path: Path) -> None:
    shutil.copytree(here.run_dir / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    stored = json.loads(config.read_text())
    stored["metadata"]["data"]["path"] = "gone.npy"
    config.write_text(json.dumps(stored))
    result = gmvq("inspect", tmp_path / "model")
    assert result.code == 0, result.err
    assert "the use of the codes is not counted" in result.err
    assert (tmp_path / "inspect" / "codebook.png").is_file()

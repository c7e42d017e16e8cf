"""The step profiler runs the real training, leaves it as it is, and divides all of its time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="lightning (extra train) is not installed")

from gmvq.training import ImageDataModule, TokenizerModule, read_checkpoint
from gmvq.training.trainer import TRAINER_DEFAULTS, build_trainer
from gmvq_bench.speed import step as bench
from gmvq_bench.speed.step import PHASES, Clock, StepSettings, profile_step


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StepSettings:
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8))
    return StepSettings(codebook_size=16, dim=4, size=8, batch_size=4, data=str(path), precision="32-true")


@pytest.fixture(scope="module")
def profiled(settings: StepSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    run_dir = tmp_path_factory.mktemp("run")
    return profile_step(settings, steps=20, warmup=2, run_dir=run_dir), run_dir


def test_a_clock_runs_one_phase_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock()
    assert clock.enter("a") == "bookkeeping"
    clock.around("b", lambda: None)()
    clock.lap()
    assert clock.steps == [{"bookkeeping": 1.0, "a": 6.0, "b": 3.0}]


def test_every_phase_of_a_step_is_found(profiled: tuple[dict[str, Any], Path]) -> None:
    result = json.loads(json.dumps(profiled[0]))
    assert result["steps"] == 20
    assert set(result["seconds"]) == set(PHASES)
    assert all(value > 0 for value in result["seconds"].values()), result["seconds"]
    for shares in ("parts", "outside_quantizer"):
        assert sum(result[shares].values()) == pytest.approx(1.0)
    assert sum(result["seconds"].values()) == pytest.approx(result["step"])
    assert 0 < result["optimizer_share_of_quantizer"] <= 1


def test_profiled_training_is_that_of_fit(
    profiled: tuple[dict[str, Any], Path], settings: StepSettings, tmp_path: Path
) -> None:
    """The hooks change no number: the same weights as without them."""
    last = 2 + 20 + 1
    options = {**TRAINER_DEFAULTS, "accelerator": "cpu", "precision": "32-true", "max_steps": last}
    trainer = build_trainer(
        {**options, "val_check_interval": last, "enable_progress_bar": False}, tmp_path, save_every=last
    )
    module = TokenizerModule(codebook_size=16, dim=4)
    quantizer: Any = module.model.quantizer
    quantizer.start_after = 0
    trainer.fit(module, ImageDataModule(settings.data, size=8, batch_size=4))
    ends = [
        read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
        for folder in (profiled[1], tmp_path)
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_command_writes_its_results_and_a_table(
    profiled: tuple[dict[str, Any], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench, "profile_step", lambda *_, **__: profiled[0])
    assert bench.run(["--rounds", "1", "--json", str(tmp_path / "step.json")]) == 0
    found = json.loads((tmp_path / "step.json").read_text())
    assert len(found["cases"]) == len(bench.SETTINGS)
    assert found["kind"] == bench.KIND
    assert found["command"].startswith("gmvq bench step --rounds 1 --json ")
    assert "| tiny, K = 16, D = 4 |" in capsys.readouterr().out

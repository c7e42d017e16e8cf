"""gmvq runs: the table of runs with what differed; the loggers of gmvq fit, and its averaged weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.cli.options import build_parser, parse_options
from gmvq.training import load_model, read_checkpoint

Run = Callable[..., Any]


@pytest.fixture
def runs(here: Any, gmvq: Run, tmp_path: Path) -> Path:
    """The small run, another with another configuration that has been stopped, and a folder that is no run."""
    shutil.copytree(here.run_dir, tmp_path / "runs" / "small")
    other = tmp_path / "runs" / "more" / "other"
    shutil.copytree(here.run_dir, other)
    text = (other / "config.yaml").read_text()
    assert "codebook_size: 16" in text
    (other / "config.yaml").write_text(
        text.replace("codebook_size: 16", "codebook_size: 99").replace("seed: 3", "seed: 4")
    )
    (other / "metrics.json").unlink()
    (tmp_path / "runs" / "pictures").mkdir()
    return tmp_path / "runs"


def test_json(runs: Path, gmvq: Run) -> None:
    result = gmvq("runs", runs, "--json")
    assert result.code == 0, result.err
    other, small = json.loads(result.out)
    assert (small["run"], small["steps"], small["finished"]) == ("small", 6, True)
    assert (other["run"], other["finished"]) == (os.path.join("more", "other"), False)
    assert small["config"] == {"seed": 3, "model.codebook_size": 16}
    assert other["config"] == {"seed": 4, "model.codebook_size": 99}
    assert small["results"]["mse"] == json.loads((runs / "small" / "metrics.json").read_text())["mse"]
    history = [json.loads(line) for line in (runs / "small" / "history.jsonl").read_text().splitlines()]
    assert (
        other["results"]["mse"]
        == [line for line in history if "validation/mse" in line][-1]["validation/mse"]
    )


def test_a_killed_run_may_leave_half_a_line(runs: Path, gmvq: Run) -> None:
    before = json.loads(gmvq("runs", runs, "--json").out)
    with (runs / "more" / "other" / "history.jsonl").open("a") as file:
        file.write('{"step": 7, "validation/m')
    assert json.loads(gmvq("runs", runs, "--json").out) == before


def test_table(runs: Path, gmvq: Run) -> None:
    (runs / "small" / "metrics.json").write_text('{"mse": 0.0021, "perplexity": 12.34}')
    result = gmvq("runs", runs, "--sort", "perplexity")
    assert result.code == 0, result.err
    head, *rows = [line.split() for line in result.out.splitlines()]
    assert head[:4] == ["run", "steps", "seed", "model.codebook_size"]
    (small,) = [row for row in rows if row[0] == "small"]
    assert small[1:4] == ["6", "3", "16"]
    assert {"2.100", "12.3"} <= set(small)
    (other,) = [row for row in rows if row[0] != "small"]
    assert all(cell.endswith("*") for cell in other[4:])


def test_sort(runs: Path, gmvq: Run) -> None:
    (runs / "small" / "metrics.json").write_text('{"mse": 0.00001}')
    assert (
        next(run["run"] for run in json.loads(gmvq("runs", runs, "--json", "--sort", "mse").out)) == "small"
    )
    result = gmvq("runs", runs, "--sort", "nothing")
    assert result.code == 2
    assert "expected one of mse" in result.err


def test_broken_runs_are_left_out(runs: Path, gmvq: Run, tmp_path: Path) -> None:
    (runs / "small" / "config.yaml").write_text("model: [")
    result = gmvq("runs", runs, "--json")
    assert result.code == 0
    assert len(json.loads(result.out)) == 1
    assert "small is left out" in result.err
    laughs = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)}, ' * 8}]\n" for i in range(12))
    (runs / "small" / "config.yaml").write_text(f"a: &a [x, x]\n{laughs}")
    assert "small is left out" in gmvq("runs", runs).err
    (tmp_path / "empty").mkdir()
    assert "holds no runs" in gmvq("runs", tmp_path / "empty").err
    assert "there is no folder" in gmvq("runs", tmp_path / "absent").err


def test_tensorboard_gets_pictures_and_every_term(here: Any, gmvq: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--trainer.logger", "TensorBoardLogger", "--trainer.max_steps", "6", "--out", tmp_path / "run"]
    assert gmvq("fit", *here.small, *options).code == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert tags["images"] == ["validation/reconstructions"]
    images = events.Images("validation/reconstructions")
    assert [image.step for image in images] == [3, 6]
    assert images[0].height == 2 * 9 + 1
    wanted = {"train/mse", "train/kl_aggregate", "validation/perplexity", "validation/usage"}
    assert wanted <= set(tags["scalars"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert {key for line in lines for key in line} - {"step"} <= set(tags["scalars"])


def test_csv_and_none(here: Any, gmvq: Run, tmp_path: Path) -> None:
    options = ["--trainer.max_steps", "3", "--trainer.enable_progress_bar", "false"]
    assert gmvq("fit", *here.small, *options, "--logger", "[csv, none]", "--out", tmp_path / "csv").code == 0
    assert "train/mse" in (tmp_path / "csv" / "csv" / "metrics.csv").read_text()
    assert "- csv" in (tmp_path / "csv" / "config.yaml").read_text()
    more = ["--ckpt_path", "last", "--out", tmp_path / "csv", "--trainer.max_steps", "6"]
    assert gmvq("fit", *more).code == 0
    first, then = ((tmp_path / "csv" / name / "metrics.csv").read_text() for name in ("csv", "csv-3"))
    assert "train/mse" in then
    assert first != then


CSV = "lightning.pytorch.loggers.CSVLogger"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["true"], "tensorboard"),
        (["false"], "none"),
        (["tensorboard"], "tensorboard"),
        (["WandbLogger"], "wandb"),
        (["pytorch_lightning.loggers.WandbLogger"], "wandb"),
        (["[CSVLogger, wandb]"], ["csv", "wandb"]),
        ([f"{{class_path: {CSV}}}"], "csv"),
        (
            ["{class_path: CSVLogger, init_args: {prefix: a}}"],
            {"class_path": CSV, "init_args": {"prefix": "a"}},
        ),
        (["CSVLogger", "--trainer.logger.prefix", "a"], {"class_path": CSV, "init_args": {"prefix": "a"}}),
        (
            ["CSVLogger", "--trainer.logger.init_args.prefix=a"],
            {"class_path": CSV, "init_args": {"prefix": "a"}},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_loggers_in_the_words_of_lightning(said: list[str], meant: Any) -> None:
    """And what is meant is a configuration of the same meaning."""
    assert parse_options(build_parser(), ["--logger", "csv", "--trainer.logger", *said]).logger == meant
    again = meant if isinstance(meant, str) else json.dumps(meant)
    assert parse_options(build_parser(), ["--logger", again]).logger == meant


@pytest.mark.parametrize(
    "said",
    [
        "MLFlow",
        "{class_path: os.system}",
        "[csv, {init_args: {prefix: a}}]",
        "{class_path: CSVLogger, init_args: 3}",
    ],
)
def test_other_loggers_are_refused(here: Any, gmvq: Run, tmp_path: Path, said: str) -> None:
    options = [*here.small, "--trainer.max_steps", "1", "--out", tmp_path / "run"]
    result = gmvq("fit", *options, "--trainer.logger", said)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "expected true, false, TensorBoardLogger, WandbLogger or CSVLogger, {class_path" in result.err


def test_loggers_of_a_configuration_with_arguments(here: Any, gmvq: Run, tmp_path: Path) -> None:
    """Two, of which one writes elsewhere, to a folder of the run's name; the run goes on with them."""
    logger = {"class_path": CSV, "init_args": {"save_dir": str(tmp_path / "logs"), "prefix": "mine"}}
    (tmp_path / "run.yaml").write_text(json.dumps({"trainer": {"logger": ["TensorBoardLogger", logger]}}))
    small = [*here.small]
    del small[small.index("--logger") : small.index("--logger") + 2]
    options = [
        "--config",
        tmp_path / "run.yaml",
        *small,
        "--trainer.max_steps",
        "2",
        "--out",
        tmp_path / "run",
    ]
    result = gmvq("fit", *options)
    assert result.code == 0, result.err
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert "mine-train/mse" in (tmp_path / "logs" / "run" / "csv" / "metrics.csv").read_text()
    result = gmvq("fit", "--ckpt_path", tmp_path / "run", "--trainer.max_steps", "4")
    assert result.code == 0, result.err
    assert "mine-train/mse" in (tmp_path / "logs" / "run" / "csv-2" / "metrics.csv").read_text()
    wrong = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dirr", "x"]
    result = gmvq("fit", *small, *wrong, "--out", tmp_path / "other")
    assert result.code == 2
    assert "CSVLogger has no argument 'save_dirr'; it has flush_logs_every_n_steps, name" in result.err
    assert not (tmp_path / "other").exists()


def test_wandb(here: Any, gmvq: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, in the project that its arguments name; a run that goes on keeps its id."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    options = [
        "--trainer.logger",
        "WandbLogger",
        "--trainer.logger.project",
        "mine",
        "--out",
        tmp_path / "run",
    ]
    assert gmvq("fit", *here.small, *options, "--trainer.max_steps", "3").code == 0
    assert (wandb.run.project, wandb.run.name) == ("mine", "run")
    wandb.finish()
    (first,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert list((first / "files" / "media" / "images" / "validation").glob("reconstructions_*.png"))
    assert gmvq("fit", "--ckpt_path", tmp_path / "run", "--trainer.max_steps", "6").code == 0
    assert wandb.run.project == "mine"
    wandb.finish()
    ids = {folder.name.rpartition("-")[2] for folder in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert len(ids) == 1


def test_pictures_of_wandb_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What W&B is given, where the package is absent."""
    from lightning.pytorch.loggers import WandbLogger

    from gmvq.training.progress import LoggedPictures

    given: list[Any] = []
    logger = object.__new__(WandbLogger)
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, *args, **more: given.append((*args, more)))
    trainer: Any = type("Trainer", (), {"loggers": [logger], "is_global_zero": True, "global_step": 7})()
    model = type("Model", (), {"reconstruct": lambda self, x: 1 - x})()
    module: Any = type("Module", (), {"model": model})()
    batch = torch.zeros(10, 1, 4, 4)
    LoggedPictures().on_validation_batch_end(trainer, module, None, batch, 0)
    LoggedPictures().on_validation_batch_end(trainer, module, None, batch, 1)
    ((name, (picture,), more),) = given
    assert name == "validation/reconstructions"
    assert more == {"step": 7}
    assert picture.shape == (11, 41, 3)
    assert np.all(picture[1:5, 1:5] == 0)
    assert np.all(picture[6:10, 1:5] == 255)


def test_average_is_what_a_run_exports(here: Any, gmvq: Run, tmp_path: Path) -> None:
    options = [*here.small, "--trainer.max_steps", "6", "--out", tmp_path / "run"]
    assert gmvq("fit", *options, "--average", "0.9").code == 0
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    exported = load_model(tmp_path / "run" / "model").state_dict()
    name = "decoder.linear.weight"
    assert torch.equal(exported[name], checkpoint["state_dict"][f"model.{name}"])
    assert not torch.equal(exported[name], checkpoint["current_model_state"][f"model.{name}"])
    result = gmvq("fit", *here.small, "--out", tmp_path / "other", "--average", "1.5")
    assert result.code == 2
    assert "between 0 and 1, got 1.5" in result.err
    assert not (tmp_path / "other").exists()

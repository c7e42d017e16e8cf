"""gmvq fit: the folder it leaves, its options, what it refuses, going on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gmvq.training import load_model, read_checkpoint
from gmvq.training.choices import parse_estimator

Run = Callable[..., Any]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_the_folder_of_a_run(here: Any) -> None:
    names = {path.name for path in here.run_dir.iterdir()}
    assert names == {
        *("checkpoints", "config.yaml", "history.jsonl", "metrics.json", "model", "report.html", "run.json")
    }
    assert not list(here.run_dir.rglob("*.tmp"))
    lines = [json.loads(line) for line in (here.run_dir / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/mse" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "validation/mse" in line] == [3, 6]
    records = json.loads((here.run_dir / "run.json").read_text())
    assert records[0]["command"].startswith("gmvq fit --name small --data.path")
    assert {"gmvq", "python", "torch", "lightning"} <= records[0]["versions"].keys()
    metadata = json.loads((here.run_dir / "model" / "config.json").read_text())["metadata"]
    assert metadata["data"]["size"] == 8
    assert metadata["step"] == 6
    assert metadata["metrics"] == json.loads((here.run_dir / "metrics.json").read_text())
    assert metadata["metrics"]["elbo"] is not None


def test_stored_config_repeats_the_run(here: Any, gmvq: Run) -> None:
    result = gmvq("fit", "--config", here.run_dir / "config.yaml")
    assert result.code == 0, result.err
    assert "run folder: runs/small-2 (runs/small is taken)" in result.err
    again = here.folder / "runs" / "small-2"
    one = load_model(here.run_dir / "model").state_dict()
    other = load_model(again / "model").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (again / "config.yaml").read_text() == (here.run_dir / "config.yaml").read_text()
    assert (again / "history.jsonl").read_text() == (here.run_dir / "history.jsonl").read_text()


def test_print_config_round_trips(here: Any, gmvq: Run, tmp_path: Path) -> None:
    options = ["--model.objective.beta", "Linear(0, 3)", "--model.variance.noise", "Cosine(1, 0, finish=0.5)"]
    options += ["--model.estimator", "GumbelSoftmax(noise=0.5)", "--model.objective.gamma.value", "0.25"]
    first = gmvq("fit", *here.small, *options, "--print_config")
    assert first.code == 0, first.err
    config = yaml.safe_load(first.out)
    assert config["model"]["objective"]["gamma"] == 0.25
    assert config["model"]["objective"]["beta"] == "Linear(0.0, 3.0)"
    assert config["model"]["variance"]["noise"] == "Cosine(1.0, 0.0, finish=0.5)"
    assert config["model"]["estimator"] == "GumbelSoftmax(temperature=1.0, noise=0.5)"
    file = tmp_path / "config.yaml"
    file.write_text(first.out)
    second = gmvq("fit", "--config", file, "--print_config")
    assert second.out == first.out


def test_the_stage_is_lines_of_yaml(gmvq: Run, tmp_path: Path) -> None:
    options = [
        "--model.perceptual",
        "0.7",
        "--model.adversarial.weight",
        "0.5",
        "--model.adversarial.sees=features",
    ]
    first = gmvq("fit", *options, "--model.likelihood", "logit_laplace", "--print_config")
    for line in (
        "perceptual: 0.7",
        "weight: 0.5",
        "sees: features",
        "start: 0.5",
        "likelihood: logit_laplace",
    ):
        assert f"  {line}\n" in first.out, line
    file = tmp_path / "stage.yaml"
    file.write_text(first.out)
    assert gmvq("fit", "--config", file, "--print_config").out == first.out
    wrong = gmvq("fit", "--config", file, "--model.adversarial.start", "2")
    assert wrong.code == 2
    assert "0 <= start <= 1" in wrong.err


def test_a_config_with_options_that_are_gone_is_read(gmvq: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "model:\n  precision: {fit: ml, sharpening: 2}\n  variance: {kind: adaptive, sigma: 0.5}\n"
    )
    result = gmvq("fit", "--config", file, "--print_config")
    assert result.code == 0, result.err
    model = yaml.safe_load(result.out)["model"]
    assert (model["precision"]["sharpening"], model["variance"]["sigma"]) == (2, 0.5)
    assert "fit" not in model["precision"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_parse(gmvq: Run, config: Path) -> None:
    result = gmvq("fit", "--config", config, "--print_config")
    assert result.code == 0, result.err
    written, parsed = yaml.safe_load(config.read_text()), yaml.safe_load(result.out)
    for group in ("model", "data", "trainer"):
        for key, value in written[group].items():
            found = parsed[group][key]
            if key == "estimator":
                found, value = parse_estimator(found), parse_estimator(value)
            if isinstance(value, dict):  # fields that a config leaves out keep their defaults
                found = {name: found[name] for name in value}
            assert found == value, f"{group}.{key}"
    head = config.read_text().split("seed:")[0]
    assert f"gmvq fit --config configs/{config.name}" in head
    assert "cost" in head
    assert "reached" in head


def test_there_are_five_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"photos", "fashion_mnist", "emoji", "cifar10", "celeba128"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.codebok_size", "3"], "'model.codebok_size'; did you mean model.codebook_size?"),
        (["--lr", "3"], "did you mean model.lr?"),
        (
            ["--model.codebook_size", "many"],
            "model.codebook_size: expected one of int, a list such as [256, 64]; got many",
        ),
        (["--model.objective.beta", "Lineer(0, 1)"], "did you mean Linear?"),
        (["--model.objective.kind", "vae"], "'albo', 'elbo', 'literal'; got vae"),
        (["--trainer.precision", "half"], "'bf16-mixed'"),
        (["--data.path", "nothing"], "there is no 'nothing'"),
        (["--data.size", "10"], "data.size must be a multiple of model.downsample=4, got 10; try 8"),
        (["--data.batch_size", "0"], "data.batch_size must be positive"),
        (["--config", "nothing.yaml"], "nothing.yaml"),
        (["--ckpt_path", "last", "--name", "nothing"], "runs that can be resumed: runs/small"),
        (["--ckpt_path", "nothing.ckpt"], "there is no checkpoint nothing.ckpt"),
        (["--name", "a/b"], "for a path use --out"),
        (["--trainer.max_steps", "0", "--out", "zero"], "give trainer.max_steps or trainer.max_epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_is_one_line_and_leaves_nothing(
    here: Any, gmvq: Run, options: list[str], message: str
) -> None:
    before = sorted(path for path in here.folder.rglob("*") if "small-2" not in path.parts)
    result = gmvq("fit", *here.small, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.startswith("gmvq fit: error: ")
    assert result.err.count("\n") == 1
    assert before == sorted(path for path in here.folder.rglob("*") if "small-2" not in path.parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {codebok_size: 3}", "did you mean model.codebook_size?"),
        ("modell: {dim: 3}", "did you mean model.dim?"),
        ("model: [", "Problems parsing config"),
    ],
)
def test_config_file_with_a_mistake(gmvq: Run, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    result = gmvq("fit", "--config", file)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_checkpoint_of_another_shape_names_the_setting(here: Any, gmvq: Run) -> None:
    stored = (here.run_dir / "config.yaml").read_text()
    result = gmvq("fit", "--ckpt_path", "last", "--name", "small", "--model.codebook_size", "32")
    assert result.code == 2
    assert "model.codebook_size was 16 and is now 32" in result.err
    assert result.err.count("\n") == 1
    assert (here.run_dir / "config.yaml").read_text() == stored


def test_truncated_checkpoint(here: Any, gmvq: Run, tmp_path: Path) -> None:
    file = tmp_path / "half.ckpt"
    whole = here.checkpoint.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for argv in (["fit", "--ckpt_path", file], ["evaluate", file]):
        result = gmvq(*argv)
        assert result.code == 2
        assert "is cut short or damaged" in result.err
        assert result.err.count("\n") == 1


def test_going_on_from_last_with_the_stored_options(here: Any, gmvq: Run) -> None:
    assert gmvq("fit", *here.small, "--out", "more", "--trainer.max_steps", "2").code == 0
    result = gmvq("fit", "--ckpt_path", "last", "--out", "more", "--trainer.max_steps", "4")
    assert result.code == 0, result.err
    assert "run folder: more, going on after step 2" in result.err
    assert read_checkpoint("more/checkpoints/last.ckpt")["global_step"] == 4
    records = json.loads(Path("more/run.json").read_text())
    assert [record["from_step"] for record in records] == [0, 2]
    steps = [json.loads(line)["step"] for line in Path("more/history.jsonl").read_text().splitlines()]
    assert steps == [2, 3, 4]


@pytest.mark.parametrize("samples", [0, 3])
def test_samples_of_the_bound(here: Any, gmvq: Run, tmp_path: Path, samples: int) -> None:
    options = [*here.small, "--trainer.max_steps", "1", "--out", tmp_path / "run"]
    assert gmvq("fit", *options, "--bound_samples", samples).code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["bound_samples"] == samples
    assert (metrics["importance_weighted"] is None) == (samples == 0)


def test_other_loggers(here: Any, gmvq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = gmvq("fit", *here.small, "--out", "with", "--logger", "wandb")
    assert result.code == 2
    assert "pip install wandb" in result.err
    options = ["--logger", "tensorboard", "--keep_best", "true", "--trainer.max_epochs", "1"]
    result = gmvq("fit", *here.small, "--out", "with", *options)
    assert result.code == 0, result.err
    assert list(Path("with/tensorboard").glob("events.out.tfevents*"))
    assert Path("with/checkpoints/best.ckpt").is_file()
    epoch = read_checkpoint("with/checkpoints/last.ckpt")
    assert epoch["global_step"] < 10  # one epoch, not our default number of steps

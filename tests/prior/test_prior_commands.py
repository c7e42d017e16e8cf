"""``gmvq prior fit`` in this process, on the tokens of a tiny tokenizer: its runs, its data, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.cli.main import main
from gmvq.prior.opening import open_prior
from gmvq.training import read_checkpoint


def test_a_run_leaves_what_a_user_needs(place: Path) -> None:
    run = place / "run"
    assert {"config.yaml", "run.json", "history.jsonl", "metrics.json", "model", "checkpoints"} <= {
        file.name for file in run.iterdir()
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 12
    assert metrics["exact"]
    assert metrics["bits_per_image"] == pytest.approx(4 * metrics["bits_per_token"])
    assert metrics["bits_per_pixel"] == pytest.approx(metrics["bits_per_image"] / 64)
    prior, notes = open_prior(run)
    assert prior.spec.labels == 3
    assert prior.spec.shape == (2, 2)
    assert notes["tokenizer"] == str(place / "plain")
    assert notes["metrics"] == metrics
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert any("validation/bits_per_token" in line for line in history)
    assert json.loads((run / "run.json").read_text())[0]["command"].startswith("gmvq prior fit ")


def test_the_figures_are_those_of_the_prior(place: Path) -> None:
    from gmvq.tokens import TokenDataset

    prior, notes = open_prior(place / "run")
    tokens = TokenDataset(place / "plain-tokens", split="test")
    batch = tokens.rows(np.arange(12))
    bits = float(prior.nats(batch["indices"], batch["label"]).mean()) / np.log(2)
    assert notes["metrics"]["bits_per_image"] == pytest.approx(bits)
    p = np.bincount(batch["indices"].flatten(), minlength=8) / 48
    entropy = -sum(value * np.log2(value) for value in p if value)
    assert notes["metrics"]["bits_per_token_entropy"] == pytest.approx(entropy)


def test_the_average_is_what_a_run_exports(
    place: Path, small: list[str], gmvq: Callable[..., Any], tmp_path: Path
) -> None:
    """And measures; the training itself is as without."""
    done = gmvq(
        *("prior", "fit", place / "plain-tokens", "--out", tmp_path / "run", *small),
        *("--trainer.max_steps", 6, "--average", 0.9),
    )
    assert done.code == 0, done.err
    exported, notes = open_prior(tmp_path / "run" / "model")
    plain, others = open_prior(place / "run" / "model")
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    name = "network.head"
    assert torch.equal(exported.state_dict()[name], checkpoint["state_dict"][f"prior.{name}"])
    last = checkpoint["current_model_state"][f"prior.{name}"]
    assert torch.equal(plain.state_dict()[name], last)
    assert not torch.equal(exported.state_dict()[name], last)
    assert notes["metrics"] != others["metrics"]


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_resumed_run_ends_where_a_straight_one_does(
    place: Path, small: list[str], gmvq: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    options = [*small, "--model.kind", kind, "--model.dropout", "0.1", "--save_every", "2"]
    straight = ["prior", "fit", place / "plain-tokens", *options, "--trainer.max_steps", "8"]
    assert gmvq(*straight, "--out", tmp_path / "a").code == 0
    from gmvq.training.callbacks import LastCheckpoint

    saved = LastCheckpoint.on_train_batch_end

    def stop(self: LastCheckpoint, trainer, *rest) -> None:
        if trainer.global_step == 5:
            self._received = 15  # as SIGTERM does
        saved(self, trainer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", stop)
        stopped = gmvq(*straight, "--out", tmp_path / "b")
    assert stopped.code == 128 + 15
    assert "Go on with: gmvq prior fit --ckpt_path" in stopped.err
    done = gmvq("prior", "fit", "--ckpt_path", tmp_path / "b")
    assert done.code == 0, done.err
    assert "going on after step 5" in done.err
    one, other = (open_prior(tmp_path / name / "model")[0] for name in "ab")
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_prior_of_levels(place: Path, small: list[str], gmvq: Callable[..., Any], tmp_path: Path) -> None:
    argv = [
        "prior",
        "fit",
        place / "levels-tokens",
        *small,
        "--trainer.max_steps",
        2,
        "--data.labels",
        "false",
    ]
    assert gmvq(*argv, "--out", tmp_path / "run").code == 0
    prior, _ = open_prior(tmp_path / "run")
    assert prior.spec.shape == (2, 2, 2)
    assert prior.spec.levels == 2
    assert prior.spec.labels == 0
    assert gmvq("sample", tmp_path / "run", "--n", 2, "--out", tmp_path / "s").code == 0


def test_bad_command_lines(place: Path, gmvq: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for argv, message in (
        (["prior"], "usage: gmvq prior fit"),
        (["prior", "train"], "expected gmvq prior fit or gmvq prior push"),
        (["prior", "fit"], "which tokens?"),
        (["prior", "fit", tmp_path], "no folder of tokens"),
        (["prior", "fit", place / "plain-tokens", "--model.sise", "tiny"], "did you mean model.size?"),
        (["prior", "fit", place / "plain-tokens", "--model.kind", "both"], "causal"),
        (["prior", "fit", place / "plain-tokens", "--model.lr", "0"], "lr must be positive"),
        (["prior", "fit", place / "plain-tokens", "--ckpt_path", "last"], "no run to resume"),
        (["sample", place / "plain", "--out", out], "expected"),
        (["sample", place / "run", place / "levels", "--out", out], "not the tokenizer that this prior"),
        (["sample", place / "run", "--label", 3, "--out", out], "labels are 0 to 2"),
        (["sample", place / "run", "--top_p", 2, "--out", out], "top_p must be at most 1"),
        (["sample", "mixture", "--out", out], "needs the tokenizer"),
        (["sample", "mixture", place / "plain", "--label", 1, "--out", out], "knows no --label"),
        (["sample", "mixture", place / "levels", "--out", out], "ResidualGMVQ has no pi"),
        (["sample", place / "run", "--inception", "x", "--out", out], "add --fid"),
    ):
        done = gmvq(*argv)
        assert done.code == 2, (argv, done)
        assert message in done.out + done.err, (argv, done)
        assert not out.exists()


def test_a_checkpoint_of_a_tokenizer_is_no_prior(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TokenPrior"):
        open_prior(place / "plain")
    shutil.copytree(place / "run" / "checkpoints", tmp_path / "checkpoints")
    prior, notes = open_prior(tmp_path / "checkpoints" / "last.ckpt")
    assert notes["step"] == 6
    assert prior.kind == "causal"


def test_tokens_without_splits_hold_out_some_of_their_own(
    place: Path, gmvq: Callable[..., Any], tmp_path: Path
) -> None:
    from gmvq.prior import TokenDataModule

    argv = ["encode", place / "plain", "--split", "test", "--out", tmp_path / "tokens", "--quiet"]
    assert gmvq(*argv).code == 0
    data = TokenDataModule(str(tmp_path / "tokens"))
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [11, 1, 1]
    whole = TokenDataModule(str(place / "plain-tokens"))
    sizes = [len(whole.rows(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 52
    assert sizes[2] == 12


def test_in_memory_fitting_learns_what_there_is_to_learn() -> None:
    from gmvq.prior import fit_prior

    labels = torch.arange(64) % 2
    indices = torch.where(labels[:, None] == 0, torch.tensor([0, 1, 2]), torch.tensor([3, 3, 0]))
    for kind in ("causal", "masked"):
        prior = fit_prior(
            indices, 4, labels=labels, steps=60, batch_size=32, kind=kind, label_dropout=0.0, warmup_steps=5
        )
        drawn = prior.sample(20, labels=torch.arange(20) % 2)
        expected = torch.where((torch.arange(20) % 2)[:, None] == 0, indices[0], indices[1])
        assert (drawn == expected).float().mean() > 0.9
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        fit_prior(indices, 2)


def test_a_run_goes_on_with_the_tokens_of_its_own_tokenizer(
    place: Path, small: list[str], gmvq: Callable[..., Any], tmp_path: Path
) -> None:
    argv = [
        "prior",
        "fit",
        place / "levels-tokens",
        *small,
        "--trainer.max_steps",
        2,
        "--out",
        tmp_path / "run",
    ]
    assert gmvq(*argv).code == 0
    done = gmvq(
        "prior", "fit", place / "plain-tokens", "--ckpt_path", tmp_path / "run", "--trainer.max_steps", 3
    )
    assert done.code == 2
    assert "tokens of the tokenizer" in done.err


def test_labels_of_every_split_count(place: Path, tmp_path: Path) -> None:
    import numpy as np

    from gmvq.prior import TokenDataModule

    data = np.load(place / "data.npz")
    labels = np.full(len(data["x_test"]), 5)
    np.savez(
        tmp_path / "data.npz",
        x_train=data["x_train"],
        y_train=data["y_train"],
        x_test=data["x_test"],
        y_test=labels,
    )
    argv = [
        "encode",
        place / "plain",
        "--data",
        tmp_path / "data.npz",
        "--out",
        tmp_path / "tokens",
        "--quiet",
    ]
    assert main([str(part) for part in argv]) == 0
    assert TokenDataModule(str(tmp_path / "tokens")).spec.labels == 6


def test_a_lone_validation_split_is_divided(place: Path, gmvq: Callable[..., Any], tmp_path: Path) -> None:
    from gmvq.prior import TokenDataModule

    assert (
        gmvq("encode", place / "plain", "--split", "validation", "--out", tmp_path / "t", "--quiet").code == 0
    )
    data = TokenDataModule(str(tmp_path / "t"))
    train, validation = data.rows("train"), data.rows("validation")
    assert len(train) + len(validation) == len(train.tokens)

"""gmvq transplant: what is copied, what stands still and when, going on, and sources that cannot be used."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trees import assert_equal_trees

from gmvq import GaussianMixtureVQ, VQAutoencoder
from gmvq.models import build_autoencoder
from gmvq.reading import read_json
from gmvq.training import ImageDataModule, TokenizerModule, load_model, read_checkpoint
from gmvq.training.callbacks import LastCheckpoint
from gmvq.training.finetune import begin_from, error_without_codes, freeze

Run = Callable[..., Any]


@pytest.fixture
def continuous(here: Any, gmvq: Run, data: list[str], tmp_path: Path) -> Path:
    """A run that was trained without codes."""
    result = gmvq(
        "fit", *here.small, "--freeze", "[quantizer]", "--trainer.max_steps", 2, "--out", tmp_path / "ae"
    )
    assert result.code == 0, result.err
    error = float(result.out.rpartition("MSE without codes: ")[2])
    model = load_model(tmp_path / "ae")
    module = ImageDataModule(str(here.folder / "images.npy"), size=8, batch_size=8)
    assert error == pytest.approx(error_without_codes(model, module.dataset("test")), rel=0.01)
    assert f"gmvq transplant {tmp_path / 'ae'}" in result.err
    assert not model.quantizer.started
    return tmp_path / "ae"


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_continuous_autoencoder(gmvq: Run, data: list[str], continuous: Path, tmp_path: Path) -> None:
    """Encoder as it was to the last bit, the decoder adapted, codes in use; every command takes the result."""
    run = tmp_path / "run"
    result = gmvq("transplant", continuous, *data, "--trainer.max_steps", 4, "--out", run)
    assert result.code == 0, result.err
    assert (
        f"begins with networks of {continuous}, and a new codebook of 16 codes\nMSE without codes"
        in result.err
    )
    source, model = load_model(continuous), load_model(run / "model")
    assert same(model.encoder, source.encoder)
    assert not same(model.decoder, source.decoder)
    assert model.quantizer.started
    assert model.quantizer.units == "latents"
    tokens = model.encode(torch.rand(1, 3, 8, 8))
    assert model.decode(tokens).shape == (1, 3, 8, 8)
    assert gmvq("evaluate", run).code == 0
    assert read_json(run / "metrics.json")["codebook_size"] == 16


def test_the_copy_is_exact(images: ImageDataModule, continuous: Path) -> None:
    """Weights to the last bit, and the error without codes is that of the source."""
    module = TokenizerModule(dim=4, codebook_size=16)
    begin_from(module, images, continuous, "new")
    source = load_model(continuous)
    assert same(module.model.encoder, source.encoder)
    assert same(module.model.decoder, source.decoder)
    test = images.dataset("test")
    errors = error_without_codes(module.model, test), error_without_codes(source, test)
    # Of another memory format.
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_stages(
    gmvq: Run, data: list[str], images: ImageDataModule, continuous: Path, tmp_path: Path
) -> None:
    """The decoder learns from its step on and not before, codes from the first; weight decay does not move it."""
    more = ["--decoder_after", 2, "--model.weight_decay", 0.5]
    source = load_model(continuous)
    start = TokenizerModule(dim=4, codebook_size=16)
    begin_from(start, images, continuous, "new")
    for steps in (2, 3):
        run = tmp_path / f"run{steps}"
        result = gmvq("transplant", continuous, *data, *more, "--trainer.max_steps", steps, "--out", run)
        assert result.code == 0, result.err
        model = load_model(run)
        assert same(model.encoder, source.encoder)
        assert same(model.decoder, source.decoder) == (steps == 2)
        assert not torch.equal(model.quantizer.codebook, start.model.quantizer.codebook)
    run = tmp_path / "none"
    frozen = ["--freeze", "[encoder, decoder]", "--trainer.max_steps", 3, "--out", run]
    assert gmvq("transplant", continuous, *data, *frozen).code == 0
    assert same(load_model(run).decoder, source.decoder)


def test_going_on_equals_an_undisturbed_run(
    gmvq: Run, data: list[str], continuous: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the decoder learns and gone on behind it; the source need not be there any more."""
    options = [*data, "--decoder_after", 3, "--trainer.max_steps", 5]
    assert gmvq("transplant", continuous, *options, "--out", tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        stop = lambda _, trainer: signal.SIGINT if trainer.global_step == 2 else None  # noqa: E731
        patch.setattr(LastCheckpoint, "_must_stop", stop)
        result = gmvq("transplant", continuous, *options, "--out", tmp_path / "cut")
    assert result.code == 128 + signal.SIGINT
    assert f"Go on with: gmvq fit --ckpt_path {tmp_path / 'cut'}" in result.err
    continuous.rename(tmp_path / "gone")
    result = gmvq("fit", "--ckpt_path", tmp_path / "cut")
    assert result.code == 0, result.err
    assert "going on after step 2" in result.err
    ends = [read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "cut")]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal_trees(ends[0][key], ends[1][key], key)


def test_options_have_an_effect(gmvq: Run, data: list[str], here: Any, tmp_path: Path) -> None:
    """--lr is the highest rate; without it, 0.001; other options of gmvq fit stand behind."""
    for rate, option in ((1e-3, []), (5e-4, ["--lr", "5e-4"])):
        run = tmp_path / str(rate)
        more = [*option, "--model.codebook_size", 8, "--trainer.max_steps", 1, "--out", run]
        assert gmvq("transplant", here.run_dir, *data, *more).code == 0
        settings = read_json(run / "model" / "config.json")["metadata"]["settings"]
        assert settings["lr"] == rate
        assert load_model(run).quantizer.codebook_size == 8


def test_a_decoder_of_standardised_latents_is_refused(
    gmvq: Run, data: list[str], images: ImageDataModule, tmp_path: Path
) -> None:
    quantizer = GaussianMixtureVQ(4, 16, units="standardized")
    model = build_autoencoder("tiny", quantizer=quantizer)
    quantizer.init_codebook(torch.randn(100, 4))
    model.save_pretrained(tmp_path / "old")
    result = gmvq("transplant", tmp_path / "old", *data, "--out", tmp_path / "run")
    assert result.code == 2
    assert 'reads standardised latents (units="standardized")' in result.err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="standardised"):
        begin_from(TokenizerModule(dim=4, codebook_size=16), images, tmp_path / "old")


def test_misuse(gmvq: Run, data: list[str], here: Any, tmp_path: Path) -> None:
    assert "required: MODEL" in gmvq("transplant").err
    assert "there is no 'nothing'" in gmvq("transplant", "nothing").err
    (tmp_path / "empty").mkdir()
    assert "holds no model" in gmvq("transplant", tmp_path / "empty").err
    both = ["--freeze", "[encoder, decoder]", "--decoder_after", 2]
    assert "leave out one of them" in gmvq("transplant", here.run_dir, *data, *both).err
    assert "decoder_after >= 0" in gmvq("transplant", here.run_dir, *data, "--decoder_after", "-1").err
    with pytest.raises(ValueError, match="leave out one of them"):
        freeze(TokenizerModule(decoder_after=1), ["decoder"])
    own = VQAutoencoder(
        torch.nn.Conv2d(3, 4, 4, 4), GaussianMixtureVQ(4, 16), torch.nn.ConvTranspose2d(4, 3, 4, 4)
    )
    own.save_pretrained(tmp_path / "own")
    assert "networks of its own" in gmvq("transplant", tmp_path / "own", *data).err
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    result = gmvq("transplant", tmp_path, *data)
    assert "AutoencoderKL or VQModel, got 'AutoencoderTiny'" in result.err


def test_a_network_that_does_not_exist(gmvq: Run) -> None:
    assert (
        "expected one of 'tiny', 'small', 'base', a mapping; got big"
        in gmvq("fit", "--model.network", "big").err
    )

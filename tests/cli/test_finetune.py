"""gmvq fit --init_from, --init_codebook and --freeze: what is taken over, what is made anew, what stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gmvq import VQAutoencoder
from gmvq.training import ImageDataModule, TokenizerModule, load_model
from gmvq.training.finetune import PARTS, begin_from, freeze, options_of

Run = Callable[..., Any]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_freeze_and_resume(here: Any, gmvq: Run, data: list[str], tmp_path: Any) -> None:
    """The model's options are the trained one's; frozen parts stand still, also after going on."""
    source = load_model(here.run_dir)
    options = ["--init_from", here.run_dir, "--freeze", "[encoder, quantizer]", "--out", tmp_path / "run"]
    result = gmvq("fit", *data, *options, "--trainer.max_steps", "2")
    assert result.code == 0, result.err
    assert f"begins with networks and codebook of {here.run_dir}\n" in result.err
    for steps in (2, 4):
        if steps == 4:
            more = ["--ckpt_path", "last", "--out", tmp_path / "run", "--trainer.max_steps", "4"]
            result = gmvq("fit", *more)
            assert result.code == 0, result.err
            assert "begins with" not in result.err
        model = load_model(tmp_path / "run")
        assert same(model.encoder, source.encoder)
        assert same(model.quantizer, source.quantizer)
        assert not same(model.decoder, source.decoder)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_frozen(part: str) -> None:
    modules = [TokenizerModule(dim=4, codebook_size=16) for _ in range(2)]
    freeze(modules[0], [part])
    trained, whole = (
        {name for name, value in module.model.named_parameters() if value.requires_grad} for module in modules
    )
    assert trained == {name for name in whole if not name.startswith(f"{part}.")} < whole


def test_nothing_frozen(here: Any, gmvq: Run, data: list[str], tmp_path: Any) -> None:
    result = gmvq(
        "fit", *data, "--init_from", here.checkpoint, "--trainer.max_steps", "1", "--out", tmp_path / "run"
    )
    assert result.code == 0, result.err
    model, source = load_model(tmp_path / "run"), load_model(here.run_dir)
    assert not same(model.encoder, source.encoder)
    assert not same(model.quantizer, source.quantizer)
    # One step of Adam at the first rate of the warm-up.
    pairs = zip(model.encoder.parameters(), source.encoder.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 0.005


@pytest.mark.parametrize("size", [24, 8])
def test_codebook_of_another_size(here: Any, images: ImageDataModule, size: int) -> None:
    module = TokenizerModule(dim=4, codebook_size=size)
    text = begin_from(module, images, here.run_dir)
    assert text.endswith(f"16 codes made {size}")
    source = load_model(here.run_dir)
    assert same(module.model.encoder, source.encoder)
    assert module.model.quantizer.started
    assert torch.equal(module.model.quantizer.scale, source.quantizer.scale)
    assert module.model.quantizer.codebook.shape == (size, 4)


def test_new_codebook(here: Any, images: ImageDataModule) -> None:
    module = TokenizerModule(dim=4, codebook_size=16)
    assert "a new codebook of 16 codes" in begin_from(module, images, here.run_dir, "new")
    source = load_model(here.run_dir)
    assert same(module.model.encoder, source.encoder)
    assert module.model.quantizer.started
    assert not torch.equal(module.model.quantizer.codebook, source.quantizer.codebook)
    kept = TokenizerModule(dim=4, codebook_size=16)
    begin_from(kept, images, here.run_dir)
    assert torch.equal(kept.model.quantizer.codebook, source.quantizer.codebook)


def test_options_of(here: Any, tmp_path: Any) -> None:
    found = options_of(here.run_dir)
    assert {"--model.dim=4", "--model.codebook_size=16", "--model.network=tiny"} <= set(found)
    assert "--model.precision.per_feature=false" in found
    assert not any("model.lr" in option for option in found)
    assert found == options_of(here.run_dir / "model") == options_of(here.checkpoint)
    VQAutoencoder.from_pretrained(here.run_dir / "model").save_pretrained(tmp_path)
    bare = set(options_of(tmp_path))
    assert {
        "--model.dim=4",
        "--model.codebook_size=16",
        "--model.network=tiny",
        "--model.downsample=4",
    } <= bare
    assert bare <= set(found)


def test_misuse(here: Any, gmvq: Run, data: list[str], images: ImageDataModule, tmp_path: Any) -> None:
    options = ["--init_from", here.run_dir, "--out", tmp_path / "run"]
    result = gmvq("fit", *data, *options, "--model.dim", "8")
    assert result.code == 2
    assert "the encoder of" in result.err
    assert "does not fit this configuration: shape mismatch" in result.err
    result = gmvq("fit", *data, *options, "--freeze", "[encoder, decoder, quantizer]")
    assert "there is nothing to train" in result.err
    assert gmvq("fit", *data, *options, "--freeze", "[codes]").code == 2
    assert "there is no 'nothing'" in gmvq("fit", *data, "--init_from", "nothing").err
    assert not (tmp_path / "run").exists()

    module = TokenizerModule(dim=4, codebook_size=16, num_quantizers=2)
    begin_from(module, images, here.run_dir, "new")
    module.model.save_pretrained(tmp_path / "levels")
    other = TokenizerModule(dim=4, codebook_size=8, num_quantizers=2)
    with pytest.raises(ValueError, match="ResidualGMVQ of 16 codes cannot be resized to 8"):
        begin_from(other, images, tmp_path / "levels")
    with pytest.raises(ValueError, match="codes"):
        freeze(module, ["codes"])

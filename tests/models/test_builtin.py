"""The trained models of ``models``: found by name, small, as good as their cards say, and taken by every command."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq import VQAutoencoder
from gmvq.errors import MissingExtraError
from gmvq.models.card import public_metadata
from gmvq.models.hub import builtin_folder

TOKENIZERS = ("photos", "emoji", "speech")
PRIOR = "emoji-prior"
#: What only a name of the machine that trained them could bring.
PLACES = ("/tmp", "/home", "/root", "/work", "/usr", str(Path.home()))

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    file = tmp_path / "pictures.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    return file


def stored(name: str) -> dict[str, Any]:
    return json.loads((builtin_folder(f"builtin:{name}") / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_held_out_items_have_the_error_of_the_card(name: str, gmvq: Run, tmp_path: Path) -> None:
    """By the command that the card names, on the whole test split."""
    result = gmvq("evaluate", f"builtin:{name}", "--json", "figures.json")
    if name != "photos" and result.code and "install" in result.err:
        pytest.skip(result.err)
    assert result.code == 0, result.err
    found, said = json.loads((tmp_path / "figures.json").read_text()), stored(name)["metadata"]["metrics"]
    assert found["dataset"] == said["dataset"]
    for figure in ("mse", "psnr", "perplexity"):
        assert found[figure] == pytest.approx(said[figure], rel=2e-3)
    card = (builtin_folder(f"builtin:{name}") / "README.md").read_text(encoding="utf-8")
    assert f"{said['mse']:.3e}" in card
    assert f"gmvq evaluate builtin:{name} " in card


@pytest.mark.parametrize("name", [*TOKENIZERS, PRIOR])
def test_small_licensed_and_without_a_place_of_this_machine(name: str) -> None:
    folder = builtin_folder(f"builtin:{name}")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6
    metadata = stored(name)["metadata"]
    assert public_metadata(metadata) == metadata
    card = (folder / "README.md").read_text(encoding="utf-8")
    texts = card + (folder / "config.json").read_text(encoding="utf-8")
    assert not [place for place in PLACES if f'"{place}' in texts or f" {place}/" in texts]
    assert re.search(r"^license: \S+$", card, re.MULTILINE)
    assert f"python models/make.py {name}" in card


def test_loading_imports_nothing_of_the_package() -> None:
    model = VQAutoencoder.from_pretrained("builtin:photos")
    assert not model.training
    assert model.encode(torch.rand(1, 3, 32, 32)).shape == (1, 8, 8)
    assert "gmvq_models" not in sys.modules


def test_an_unknown_name_and_names_that_lead_elsewhere(gmvq: Run) -> None:
    for name in ("photographs", "../gmvq_models/photos", ""):
        with pytest.raises(FileNotFoundError, match=r"it has builtin:emoji, .*builtin:photos"):
            VQAutoencoder.from_pretrained(f"builtin:{name}")
    result = gmvq("inspect", "builtin:photographs")
    assert result.code == 2
    assert "builtin:photos" in result.err
    result = gmvq("inspect", f"builtin:{PRIOR}")
    assert result.code == 2
    assert "TokenPrior" in result.err


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, gmvq: Run) -> None:
    find = importlib.util.find_spec
    hidden = lambda name, package=None: None if name == "gmvq_models" else find(name, package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(MissingExtraError, match=r"pip install \./models"):
        VQAutoencoder.from_pretrained("builtin:photos")
    result = gmvq("inspect", "builtin:photos")
    assert result.code == 2
    assert "pip install ./models" in result.err


def test_commands_take_the_name(gmvq: Run, pictures: Path, tmp_path: Path) -> None:
    before = sorted(builtin_folder("builtin:photos").parent.rglob("*"))
    for command in (
        ("evaluate", "builtin:photos", "--data", pictures),
        ("inspect", "builtin:photos", "--data", pictures),
        ("encode", "builtin:photos", "--data", pictures, "--out", "tokens"),
        ("decode", "tokens", "--out", "decoded"),  # by the name that the manifest keeps
        ("push", "builtin:photos", "me/photos", "--dry_run", "pushed"),
        ("export", "builtin:photos", "--format", "torch-export", "--out", "exported", "--data", pictures),
    ):
        result = gmvq(*command)
        assert result.code == 0, result.err
    manifest = json.loads((tmp_path / "tokens" / "manifest.json").read_text())
    assert manifest["checkpoint"]["path"] == "builtin:photos"
    # Results go to the folder where the command is, and never to where pip keeps packages.
    assert sorted(builtin_folder("builtin:photos").parent.rglob("*")) == before
    assert list(tmp_path.glob("*.json"))


def test_training_begins_from_it(gmvq: Run, pictures: Path, tmp_path: Path) -> None:
    quick = ("--trainer.max_steps", 1, "--trainer.accelerator", "cpu", "--logger", "none")
    data = ("--data.path", pictures, "--data.size", 32, "--data.batch_size", 2)
    result = gmvq("fit", "--init_from", "builtin:photos", "--out", "run", *quick, *data)
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["quantizer"]["codebook_size"] == stored("photos")["quantizer"]["codebook_size"]


def test_the_prior_finds_its_tokenizer(gmvq: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    result = gmvq("sample", f"builtin:{PRIOR}", "--n", 2, "--out", "samples")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "samples").glob("*.png"))) == 3  # and the grid
    figures = stored(PRIOR)["metadata"]["metrics"]
    assert figures["bits_per_token"] < figures["bits_per_token_entropy"]


def test_the_card_of_the_prior_runs_and_says_how_large_it_is() -> None:
    pytest.importorskip("transformers")
    card = (builtin_folder(f"builtin:{PRIOR}") / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["images"].shape == (16, 3, 64, 64)
    parameters = sum(value.numel() for value in names["prior"].parameters())
    assert f"{parameters / 1e6:.2f} M parameters" in card
    assert f"for {stored(PRIOR)['metadata']['step']:,} steps" in card


def test_the_prior_has_the_likelihood_of_the_card(gmvq: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from gmvq.prior import TokenDataModule
    from gmvq.prior.measure import measure_prior
    from gmvq.prior.opening import open_prior

    result = gmvq("encode", "builtin:emoji", "--out", "tokens")
    if result.code and "install" in result.err:
        pytest.skip(result.err)
    assert result.code == 0, result.err
    prior, notes = open_prior(f"builtin:{PRIOR}")
    found = asdict(measure_prior(prior, TokenDataModule(str(tmp_path / "tokens")).rows("test")))
    assert found == pytest.approx(notes["metrics"], rel=2e-3)

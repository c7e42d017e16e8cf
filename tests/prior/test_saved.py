"""A prior on disk and on the Hub: the same figures after loading, and errors that name what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from gmvq.models.weights import DIGEST
from gmvq.prior import TokenPrior, TokenSpec
from gmvq.prior.opening import open_prior

from .conftest import make_prior

SPEC = TokenSpec((2, 2), 5, labels=3)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_saved_prior_is_the_same(tmp_path: Path, kind: str) -> None:
    prior = make_prior(SPEC, kind)
    prior.save_pretrained(tmp_path, metadata={"step": 7})
    again, notes = open_prior(tmp_path)
    assert notes == {"step": 7}
    assert not again.training
    assert again.kind == kind
    assert again.spec == SPEC
    indices = torch.randint(5, (6, 2, 2))
    assert torch.equal(again.nats(indices), prior.nats(indices))
    assert torch.equal(again.sample(4, seed=1), prior.sample(4, seed=1))


def test_broken_folders(tmp_path: Path) -> None:
    prior = make_prior(SPEC)
    prior.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"class": "VQAutoencoder"}, "expected a model of class TokenPrior"),
        ({"prior": {**config["prior"], "size": "small"}}, "does not fit the model described"),
        ({"prior": {**config["prior"], "size": "enormous"}}, "entry 'prior' cannot be used"),
        ({"prior": {"kind": "causal"}}, "entry 'prior' cannot be used"),
        ({"prior": {**config["prior"], "dropout": float("nan")}}, "entry 'prior' cannot be used"),
        ({"format_version": 9}, "format_version"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            TokenPrior.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    assert DIGEST.encode() in data
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        TokenPrior.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_prior(tmp_path / "nothing")


def test_a_push_uploads_the_prior_and_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: object = None) -> None:
            pass

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            seen["private"] = private

        def file_exists(self, repo_id: str, name: str) -> bool:
            return False

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
            seen["files"] = {
                name: (Path(folder_path) / name).read_bytes() for name in os.listdir(folder_path)
            }
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    prior = make_prior(SPEC)
    notes = {"tokens": {"path": "/home/me/secret/tokens"}, "metrics": {"bits_per_token": 4.2}, "step": 1234}
    address = prior.push_to_hub("me/prior", private=True, metadata=notes, license="apache-2.0")
    assert address.endswith("me/prior/commit/1")
    assert seen["private"]
    assert sorted(seen["files"]) == ["README.md", "config.json", "model.safetensors"]
    card = seen["files"]["README.md"].decode()
    data = huggingface_hub.ModelCard(card).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "gmvq"
    assert "2 x 2 tokens of 5 codes, 3 labels" in card
    assert "bits_per_token: 4.2" in card
    assert f"{sum(value.numel() for value in prior.parameters()) / 1e6:.2f} M parameters" in card
    assert "trained by the Python package `gmvq` for 1,234 steps." in card
    assert "gmvq sample me/prior TOKENIZER --n 64" in card
    assert b"secret" not in seen["files"]["config.json"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_prior_of_several_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    """Such a network cannot compute."""
    make_prior(SPEC).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["network.head"] = weights["network.head"].to(dtype)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"several dtypes: network\.\*, got float"):
        open_prior(tmp_path)

"""The model card, and a push to a Hub that is a local folder."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from torch import nn

from gmvq import GaussianMixtureVQ, ResidualGMVQ
from gmvq.models import VQAutoencoder, build_autoencoder, model_card, model_digest
from gmvq.models.card import MARKER, public_metadata

METADATA = {
    "step": 20000,
    "data": {"path": "/home/me/secret/photos", "size": 64, "test": "photos (test): 90 items"},
    "metrics": {
        "dataset": "photos (test): 90 items",
        "mse": 0.00123,
        "psnr": 29.1,
        "perplexity": 211.5,
        "ssim": None,
    },
}


@pytest.fixture
def mixture() -> VQAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder("tiny", dim=8, codebook_size=256)
    model.quantizer.init_codebook(torch.randn(512, 8))  # pyright: ignore[reportCallIssue]
    return model.eval()


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter(mixture: VQAutoencoder) -> None:
    card = model_card(mixture, repo_id="me/tok", metadata=METADATA, license="cc-by-4.0")
    found = front_matter(card)
    assert found["library_name"] == "gmvq"
    assert found["license"] == "cc-by-4.0"
    assert "vector-quantization" in found["tags"]
    assert found["metrics"] == ["mse", "psnr", "perplexity"]
    result = found["model-index"][0]["results"][0]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]}["psnr"] == 29.1
    data = huggingface_hub.ModelCard(card).data.to_dict()  # as the Hub reads it
    assert data["license"] == "cc-by-4.0"
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == "photos (test): 90 items"


def test_text(mixture: VQAutoencoder) -> None:
    card = model_card(mixture, repo_id="me/tok", metadata=METADATA)
    for line in (
        "# tok",
        "| codebook size K | 256 |",
        "| features per codeword | 8 |",
        "| channels | 3 |",
        "| one position for | 4 x 4 pixels |",
        "| rate, codes of one length | 0.5 bits/pixel |",
        "| trained on | photos at 64 x 64 pixels |",
        "| optimizer steps | 20,000 |",
        "| measured on | photos (test): 90 items |",
        "| PSNR of the mean squared error | 29.10 dB |",
        "gmvq reconstruct me/tok photo.jpg --out restored",
        MARKER,
    ):
        assert line in card.splitlines(), line
    assert model_digest(mixture) in card
    assert "secret" not in card


def test_no_licence_and_no_figures_are_invented(mixture: VQAutoencoder) -> None:
    card = model_card(mixture)
    assert "license" not in front_matter(card)
    assert "metrics" not in front_matter(card)
    assert "Their author has stated no licence" in card
    assert "Nothing is recorded about the training" in card
    odd = {
        "metrics": {"mse": float("nan"), "psnr": "high", "perplexity": None},
        "data": "photos",
        "step": "many",
    }
    assert front_matter(model_card(mixture, metadata=odd)).keys() == {"library_name", "tags"}


def test_usage_runs_when_pasted(mixture: VQAutoencoder, tmp_path: Path) -> None:
    mixture.save_pretrained(tmp_path)
    card = model_card(mixture, repo_id="me/tok")
    code = re.search(r"```python\n(.*?)```", card, re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace('"me/tok"', repr(str(tmp_path))), names)
    assert names["indices"].shape == (1, 8, 8)
    assert names["restored"].shape == (1, 3, 32, 32)


def test_several_codes_and_networks_of_ones_own() -> None:
    model = build_autoencoder("tiny", quantizer=ResidualGMVQ(8, 16, 3))
    card = model_card(model)
    assert "| codes per position | 3 |" in card
    assert "| rate, codes of one length | 0.75 bits/pixel |" in card
    custom = VQAutoencoder(nn.Conv2d(3, 4, 4, 4), GaussianMixtureVQ(4, 8), nn.ConvTranspose2d(4, 3, 4, 4))
    card = model_card(custom, repo_id="me/own")
    assert 'from_pretrained("me/own", encoder=encoder, decoder=decoder)' in card
    assert "| network | custom" in card


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("photos", "photos"),
        ("hf:org/name", "hf:org/name"),
        ("/home/me/data/cats", "cats"),
        ("../mine/cats.npy", "cats.npy"),
        ("~/cats/", "cats"),
        ("C:\\Users\\me\\cats", "cats"),
    ],
)
def test_public_metadata(path: str, public: str) -> None:
    given = {"data": {"path": path, "size": 8}, "step": 3}
    assert public_metadata(given) == {"data": {"path": public, "size": 8}, "step": 3}
    assert given["data"]["path"] == path


def test_the_digest(mixture: VQAutoencoder, tmp_path: Path) -> None:
    mixture.save_pretrained(tmp_path)
    assert model_digest(VQAutoencoder.from_pretrained(tmp_path)) == model_digest(mixture)
    before = model_digest(mixture)
    with torch.no_grad():
        mixture.decoder.linear.bias[0] += 1e-6
    assert model_digest(mixture) != before


class LocalHub:
    """What a push asks of ``HfApi``, on folders below ``root``."""

    root: Path

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def file_exists(self, repo_id: str, filename: str) -> bool:
        return (self.root / repo_id / filename).is_file()

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        return os.fspath(self.root / repo_id / filename)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    LocalHub.root = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub, "HfApi", LocalHub)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: os.fspath(LocalHub.root / name)
    )
    return LocalHub.root


def test_push_and_load(mixture: VQAutoencoder, hub: Path) -> None:
    mixture.push_to_hub("me/tok", metadata=METADATA, license="apache-2.0")
    assert sorted(os.listdir(hub / "me" / "tok")) == ["README.md", "config.json", "model.safetensors"]
    assert front_matter((hub / "me" / "tok" / "README.md").read_text())["license"] == "apache-2.0"
    assert "secret" not in (hub / "me" / "tok" / "config.json").read_text()
    loaded = VQAutoencoder.from_pretrained("me/tok")
    images = torch.rand(2, 3, 16, 24)
    assert torch.equal(loaded.encode(images), mixture.encode(images))
    assert torch.equal(loaded.reconstruct(images), mixture.reconstruct(images))


def test_a_second_push_renews_our_card_and_keeps_yours(mixture: VQAutoencoder, hub: Path) -> None:
    card = hub / "me" / "tok" / "README.md"
    mixture.push_to_hub("me/tok")
    mixture.push_to_hub("me/tok", license="mit")
    assert "license: " in card.read_text()
    card.write_text("# my own words")
    with torch.no_grad():
        mixture.decoder.linear.bias += 1
    mixture.push_to_hub("me/tok", license="mit")
    assert card.read_text() == "# my own words"
    assert torch.equal(
        VQAutoencoder.from_pretrained("me/tok").decoder.linear.bias, mixture.decoder.linear.bias
    )


def test_what_goes_wrong(mixture: VQAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is named 'owner/name', got 'tok'"):
        mixture.push_to_hub("tok")

    class TransportError(Exception):
        """As those of httpx: no OSError."""

    for error in (ConnectionError("no route"), TransportError("no route"), ValueError("no route")):

        def create_repo(self: Any, *_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(LocalHub, "create_repo", create_repo)
        monkeypatch.setattr(huggingface_hub, "HfApi", LocalHub)
        with pytest.raises(OSError, match=r"'me/tok' could not be pushed; log in with .*: no route"):
            mixture.push_to_hub("me/tok")


def test_a_card_of_signals_says_so() -> None:
    model = build_autoencoder(channels=1, spatial_dims=1, codebook_size=8)
    text = model_card(model, metadata={"metrics": {"mse": 0.1}})
    assert "A tokenizer of signals" in text
    data = huggingface_hub.ModelCard(text).data
    assert "signal-tokenizer" in (data.tags or [])
    assert "image" not in text.split("## Usage")[0]

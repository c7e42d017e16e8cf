"""Saving and loading: exact round trips, interrupted saves, every kind of broken folder, a mocked Hub."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gmvq.errors import MissingExtraError
from gmvq.models import VQAutoencoder, build_autoencoder

MakeQuantizer = Callable[[int, int], nn.Module]


def exactly(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def saved(model: VQAutoencoder, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model", metadata={"data": "noise", "mse": 0.5})
    return tmp_path / "model"


def test_round_trip_is_exact(model: VQAutoencoder, saved: Path, images: Tensor) -> None:
    loaded = VQAutoencoder.from_pretrained(saved)
    assert not loaded.training
    out, expected = loaded(images), model.eval()(images)
    exactly(out.reconstruction, expected.reconstruction)
    exactly(out.quantizer.indices, expected.quantizer.indices)
    config = json.loads((saved / "config.json").read_text())
    assert config["networks"]["name"] == "tiny"
    assert config["versions"]["torch"] == torch.__version__
    assert config["metadata"] == {"data": "noise", "mse": 0.5}
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_other_accounts_may_read_the_weights(model: VQAutoencoder, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        model.save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o644}


def test_what_a_killed_process_left_is_gone_after_the_next_save(model: VQAutoencoder, saved: Path) -> None:
    left, running = (saved / f".model.safetensors.{number}.tmp" for number in (2**22 + 1, os.getpid()))
    left.touch()
    model.save_pretrained(saved)
    assert not left.exists()
    assert not running.exists()


@pytest.mark.parametrize("change", [lambda m: m.to(torch.bfloat16), lambda m: m.double()])
def test_round_trip_keeps_the_dtype(
    model: VQAutoencoder, images: Tensor, tmp_path: Path, change: Callable[[VQAutoencoder], VQAutoencoder]
) -> None:
    model = change(model).eval()
    model.save_pretrained(tmp_path)
    loaded = VQAutoencoder.from_pretrained(tmp_path)
    dtype = next(model.parameters()).dtype
    assert next(loaded.parameters()).dtype == dtype
    exactly(loaded.reconstruct(images.to(dtype)), model.reconstruct(images.to(dtype)))


def test_channels_last_weights_can_be_saved(model: VQAutoencoder, images: Tensor, tmp_path: Path) -> None:
    model.to(memory_format=torch.channels_last).save_pretrained(tmp_path)
    loaded = VQAutoencoder.from_pretrained(tmp_path).to(memory_format=torch.channels_last)
    exactly(loaded.reconstruct(images), model.reconstruct(images))


def test_other_sizes_and_a_trained_state(nearest_code: MakeQuantizer, tmp_path: Path) -> None:
    model = build_autoencoder("tiny", channels=1, downsample=8, spatial_dims=1, quantizer=nearest_code(5, 7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(os.fspath(tmp_path))
    x = torch.rand(2, 1, 32)
    exactly(VQAutoencoder.from_pretrained(os.fspath(tmp_path)).reconstruct(x), model.reconstruct(x))


def tied_networks() -> tuple[nn.Module, nn.Module]:
    encoder, decoder = nn.Conv2d(1, 6, 1), nn.ConvTranspose2d(6, 1, 1)
    decoder.weight = encoder.weight  # one storage under two names
    return encoder, decoder


def test_custom_networks_are_passed_and_may_share_tensors(
    nearest_code: MakeQuantizer, tmp_path: Path
) -> None:
    encoder, decoder = tied_networks()
    model = VQAutoencoder(encoder, nearest_code(6, 7), decoder)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["networks"] == "custom"
    encoder, decoder = tied_networks()
    loaded = VQAutoencoder.from_pretrained(tmp_path, encoder=encoder, decoder=decoder)
    assert loaded.encoder.weight is loaded.decoder.weight
    x = torch.rand(2, 1, 4, 4)
    exactly(loaded.reconstruct(x), model.reconstruct(x))
    with pytest.raises(ValueError, match=r"networks of its own.*pass encoder=\.\.\. and decoder=\.\.\."):
        VQAutoencoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pass decoder=\.\.\.$"):
        VQAutoencoder.from_pretrained(tmp_path, encoder=encoder)


def test_an_edited_default_network_counts_as_custom(model: VQAutoencoder, tmp_path: Path) -> None:
    model.decoder = nn.Sequential(model.decoder, nn.Sigmoid())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["networks"] == "custom"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_an_interrupted_save_leaves_the_old_file(
    model: VQAutoencoder, saved: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    before = (saved / file).read_bytes()
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == file:
            raise OSError("disk full")
        real(source, target)

    with torch.no_grad():
        model.encoder.linear.bias.add_(1)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(saved, metadata={"other": True})
    assert (saved / file).read_bytes() == before
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_metadata_that_json_cannot_hold_writes_nothing(model: VQAutoencoder, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON"):
        model.save_pretrained(tmp_path / "new", metadata={"mse": torch.tensor(1.0)})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_missing_file(saved: Path, file: str) -> None:
    (saved / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        VQAutoencoder.from_pretrained(saved)


def test_a_file_in_place_of_the_folder(saved: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder that holds"):
        VQAutoencoder.from_pretrained(saved / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "expected format_version 1, got 99; .*update gmvq"),
        ({"class": "Other"}, "expected a model of class VQAutoencoder, got 'Other'"),
        ({"networks": {"name": "huge"}}, r"config\.json: the entry 'networks' .*got 'huge'"),
        ({"networks": {"width": 3}}, r"config\.json: the entry 'networks' .*width"),
        ({"quantizer": {"type": "NearestCode"}}, r"config\.json: the entry 'quantizer' .*dim"),
        ({"layout": "last"}, r"config\.json: the entry 'layout' .*got 'last'"),
    ],
)
def test_a_config_that_cannot_be_used(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(saved, **changes)
    with pytest.raises(ValueError, match=message):
        VQAutoencoder.from_pretrained(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 1,', r"config\.json is not valid JSON"),
        ("[1, 2]", "expected the entries format_version, class"),
        ('{"_class_name": "AutoencoderKL"}', "holds a model of diffusers, .* gmvq transplant gives it some"),
        ('{"format_version": 1}', "missing: class, layout, networks, quantizer"),
    ],
)
def test_a_malformed_config(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        VQAutoencoder.from_pretrained(saved)


@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_truncated_weights(saved: Path, size: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        VQAutoencoder.from_pretrained(saved)


def test_weights_that_do_not_fit(saved: Path) -> None:
    file = saved / "model.safetensors"
    weights = load_file(file)
    bias = weights.pop("encoder.linear.bias")
    save_file({**weights, "extra": bias, "quantizer.codebook": torch.zeros(9, 8)}, file)
    with pytest.raises(ValueError, match="does not fit") as caught:
        VQAutoencoder.from_pretrained(saved)
    message = str(caught.value)
    assert "missing: encoder.linear.bias" in message
    assert "unexpected: extra" in message
    assert "shape mismatch: quantizer.codebook, expected (16, 8), got (9, 8)" in message


def test_a_long_list_of_problems_is_cut(saved: Path) -> None:
    save_file({"extra": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"\.\.\. and \d+ more"):
        VQAutoencoder.from_pretrained(saved)


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such/folder", "a/b/c"])
def test_neither_a_folder_nor_a_hub_id(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="neither an existing folder nor a Hub repository"):
        VQAutoencoder.from_pretrained(name)


def test_download_from_the_hub(
    model: VQAutoencoder, saved: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options))
        return os.fspath(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = VQAutoencoder.from_pretrained("owner/some.model-1", revision="v2", token="secret")
    exactly(loaded.reconstruct(images), model.reconstruct(images))
    files = ["model.safetensors", "config.json"]
    assert calls == [("owner/some.model-1", {"revision": "v2", "token": "secret", "allow_patterns": files})]


def test_a_repository_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **options: Any) -> str:
        raise OSError("404 Client Error")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError, match=r"'runs/typo' is not an existing folder.*404 Client Error"):
        VQAutoencoder.from_pretrained("runs/typo")


def test_push_to_the_hub(model: VQAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class HfApi:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def file_exists(self, repo_id: str, filename: str) -> bool:
            return False

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            loaded = VQAutoencoder.from_pretrained(folder_path)
            exactly(loaded.quantizer.codebook, model.quantizer.codebook)
            calls.append((repo_id, sorted(os.listdir(folder_path)), commit_message))
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    url = model.push_to_hub("owner/model", private=True, token="secret", commit_message="first")
    assert url == "https://huggingface.co/owner/model/commit/1"
    assert calls == [
        ("token", "secret"),
        ("owner/model", {"private": True, "exist_ok": True}),
        ("owner/model", ["README.md", "config.json", "model.safetensors"], "first"),
    ]


def test_the_hub_without_its_package(model: VQAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    for call in (
        lambda: VQAutoencoder.from_pretrained("owner/model"),
        lambda: model.push_to_hub("owner/model"),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[train\]'"):
            call()

"""AutoencoderKL and VQModel of diffusers as networks: the same values, a transplant from end to end, bad folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmvq import VQAutoencoder
from gmvq.errors import MissingExtraError
from gmvq.models import GMVQModel
from gmvq.models.diffusers_networks import WEIGHTS, config_of, networks_from, read_diffusers
from gmvq.training.finetune import options_of

Run = Callable[..., Any]

SMALL: dict[str, Any] = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
QUIET = ["--trainer.accelerator", "cpu", "--logger", "none"]
WIDE = {**SMALL, "block_out_channels": (32, 32), "norm_num_groups": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("AutoencoderKL", SMALL),
    "kl without convolutions": (
        "AutoencoderKL",
        SMALL | {"use_quant_conv": False, "use_post_quant_conv": False},
    ),
    "vq": ("VQModel", SMALL | {"vq_embed_dim": 3, "num_vq_embeddings": 32}),
    "vq, spatial norm": ("VQModel", WIDE | {"norm_type": "spatial"}),
    "vq of Amused": ("VQModel", SMALL | {"lookup_from_codebook": True}),
}


def build(case: str) -> Any:
    """A diffusers model with random weights."""
    package = pytest.importorskip("diffusers", reason="the package diffusers is not installed")
    torch.manual_seed(0)
    name, options = CASES[case]
    return getattr(package, name)(**options).eval()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A file of 48 pictures of 8 x 8 pixels."""
    file = tmp_path / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), dtype=np.uint8))
    return file


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_networks_equal_the_model(case: str, images: Tensor, tmp_path: Path) -> None:
    """Latents and images, in units of [0, 1]; read from a folder, and built anew from what they say of themselves."""
    model = build(case)
    model.save_pretrained(tmp_path)
    encoder, decoder = read_diffusers(tmp_path)
    signed = not model.config.get("lookup_from_codebook")
    x = 2 * images - 1 if signed else images
    name = CASES[case][0]
    latents = model.encode(x).latent_dist.mode() if name == "AutoencoderKL" else model.encode(x).latents
    more = {} if name == "AutoencoderKL" else {"force_not_quantize": True}
    if model.config.get("lookup_from_codebook"):
        theirs = model.decoder(model.post_quant_conv(latents))
    else:
        theirs = model.decode(latents, **more).sample
    assert torch.equal(encoder(images), latents)
    assert torch.equal(decoder(latents), theirs / 2 + 0.5 if signed else theirs)
    config: Any = encoder.config
    assert config == decoder.config == json.loads(json.dumps(config))
    again = networks_from(**config)
    again[0].load_state_dict(encoder.state_dict())
    assert torch.equal(again[0](images), latents)


def test_files_of_older_versions_and_of_half_precision(tmp_path: Path) -> None:
    """The attention had other names; networks are float32 always."""
    build("kl").save_pretrained(tmp_path)
    now = read_diffusers(tmp_path)[0].state_dict()
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(tmp_path / WEIGHTS)
    for new, old in renamed.items():
        weights = {name.replace(new, old): value.half() for name, value in weights.items()}
    assert not weights.keys() & {name for name in now if "to_q" in name}
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    for name, value in read_diffusers(tmp_path)[0].state_dict().items():
        assert torch.equal(value, now[name].half().float()), name


@pytest.mark.parametrize("case", ["kl", "vq"])
def test_transplant(case: str, images: Tensor, gmvq: Run, pictures: Path, tmp_path: Path) -> None:
    """Five steps, saved, loaded: encode, decode, the commands, and back into diffusers' interface."""
    model = build(case)
    model.save_pretrained(tmp_path / "source")
    data = ["--data.path", pictures, "--data.size", 8, "--data.batch_size", 8]
    more = ["--model.codebook_size", 16, "--trainer.max_steps", 5, *QUIET]
    run = tmp_path / "run"
    result = gmvq("transplant", tmp_path / "source", *data, *more, "--out", run)
    assert result.code == 0, result.err
    made = VQAutoencoder.from_pretrained(run / "model")
    encoder, decoder = read_diffusers(tmp_path / "source")
    for name, value in encoder.state_dict().items():
        assert torch.equal(made.encoder.state_dict()[name], value), name
    assert any(
        not torch.equal(value, made.decoder.state_dict()[n]) for n, value in decoder.state_dict().items()
    )
    tokens = made.encode(images)
    assert tokens.shape == (2, 8, 12)
    assert torch.equal(made.decode(tokens), made.reconstruct(images))
    assert GMVQModel(made).decode(GMVQModel(made).encode(images).latents).sample.shape == images.shape
    assert gmvq("evaluate", run).code == 0
    assert f"network {CASES[case][0]}, " in " ".join(gmvq("inspect", run).out.split())
    photo = tmp_path / "photo.png"
    Image.fromarray(np.load(pictures)[0]).save(photo)
    assert gmvq("reconstruct", run, photo, "--out", tmp_path / "rec").code == 0
    assert gmvq("encode", run, "--out", tmp_path / "tokens", "--quiet").code == 0
    assert (
        gmvq("decode", tmp_path / "tokens", "--checkpoint", run, "--out", tmp_path / "out", "--quiet").code
        == 0
    )
    result = gmvq("fit", "--ckpt_path", run, "--trainer.max_steps", 6)
    assert result.code == 0, result.err
    # A second transplant, from the run and from its model folder.
    again = options_of(run)
    assert again == options_of(run / "model")
    bare = tmp_path / "bare"
    made.save_pretrained(bare)
    assert {option for option in options_of(bare) if "network" in option} <= set(again)


def test_a_codebook_of_diffusers_is_not_kept(gmvq: Run, pictures: Path, tmp_path: Path) -> None:
    build("vq").save_pretrained(tmp_path / "source")
    data = ["--data.path", pictures, "--data.size", 8]
    result = gmvq("fit", *data, "--init_from", tmp_path / "source", "--out", tmp_path / "run")
    assert result.code == 2
    assert "take --init_codebook new" in result.err
    assert "--model.codebook_size=32" in options_of(tmp_path / "source")


def test_bad_folders(gmvq: Run, tmp_path: Path) -> None:
    model = build("kl")
    model.save_pretrained(tmp_path / "kl")
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert f"give the folder of its autoencoder: {tmp_path / 'vae'}" in gmvq("transplant", tmp_path).err
    weights = tmp_path / "kl" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read_diffusers(tmp_path / "kl")
    build("vq").save_pretrained(tmp_path / "vq")
    weights.write_bytes((tmp_path / "vq" / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="does not fit the model"):
        read_diffusers(tmp_path / "kl")
    weights.unlink()
    (tmp_path / "kl" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(FileNotFoundError, match="pickled weights"):
        read_diffusers(tmp_path / "kl")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "got 'AutoencoderTiny'"),
        ({"out_channels": 1}, "in_channels=3 and out_channels=1"),
        ({"layers_per_block": 10**9}, "at most 32 levels"),
        ({"layers_per_block": float("inf")}, "'layers_per_block' cannot be inf"),
        ({"block_out_channels": 8}, "'block_out_channels' cannot be 8"),
        ({"block_out_channels": [8, "8"]}, "'block_out_channels' cannot be"),
        ({"block_out_channels": []}, "one block of"),
        ({"latent_channels": None}, "'latent_channels' cannot be None"),
        ({"norm_num_groups": 0}, "'norm_num_groups' cannot be 0"),
        ({"use_quant_conv": 1}, "'use_quant_conv' cannot be 1"),
        ({"act_fn": ["silu"]}, "'act_fn' cannot be"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "for each of the 2 block_out_channels"),
        ({"down_block_types": ["CrossAttnDownBlock2D"] * 2}, "CrossAttnDownBlock2D"),
    ],
)
def test_bad_configurations(changed: dict[str, Any], message: str) -> None:
    pytest.importorskip("diffusers", reason="the package diffusers is not installed")
    with pytest.raises(ValueError, match=message):
        config_of({"_class_name": "AutoencoderKL", **SMALL, **changed})


def test_sizes_that_the_configuration_does_not_have() -> None:
    pytest.importorskip("diffusers", reason="the package diffusers is not installed")
    options = {"_class_name": "AutoencoderKL", **SMALL}
    with pytest.raises(ValueError, match="AutoencoderKL has dim=4, not 8"):
        networks_from(options, channels=3, dim=8, downsample=2, spatial_dims=2)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Own networks need nothing; those of diffusers name the extra."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    networks_from("tiny", channels=3, dim=4, downsample=4, spatial_dims=2)
    with pytest.raises(MissingExtraError, match=r"\.\[diffusers\]"):
        config_of({"_class_name": "VQModel"})


def test_a_name_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The configuration and the safetensors are fetched, and nothing else."""
    hub = pytest.importorskip("huggingface_hub")
    build("kl").save_pretrained(tmp_path / "kl")
    calls: list[list[str]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append(options["allow_patterns"])
        return str(tmp_path / "kl")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert "--model.channels=3" in options_of("owner/vae")
    assert calls == [["config.json", "model.safetensors", WEIGHTS]]


def test_sizes_are_compared_before_anything_is_built(tmp_path: Path) -> None:
    """A configuration of terabytes with the weights of a small model; one that no network has."""
    build("kl").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changed, message in (
        ({"block_out_channels": [2**20, 2**20]}, "does not fit the model described in it: shape mismatch"),
        ({"norm_num_groups": 3}, "no AutoencoderKL can be built with its configuration"),
        ({"act_fn": "none"}, "no AutoencoderKL can be built with its configuration"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ValueError, match=message):
            read_diffusers(tmp_path)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    build("kl").save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    weights["decoder.conv_out.bias"][0] = torch.nan
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"decoder\.conv_out\.bias holds 1 NaN or infinite values"):
        read_diffusers(tmp_path)


def test_nothing_but_the_two_files_is_read(tmp_path: Path) -> None:
    """An index of weights elsewhere, code, and how to quantize: ``from_pretrained`` of diffusers would follow them."""
    build("kl").save_pretrained(tmp_path)
    whole = read_diffusers(tmp_path)[0].state_dict()
    index = {"weight_map": {"encoder.conv_in.weight": "../elsewhere.safetensors"}}
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    config = json.loads((tmp_path / "config.json").read_text())
    more = {"quantization_config": {"quant_method": "bitsandbytes"}, "auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config | more))
    assert all(
        torch.equal(value, whole[name]) for name, value in read_diffusers(tmp_path)[0].state_dict().items()
    )

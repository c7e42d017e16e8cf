"""What fuzzing found, one by one: damage that went unnoticed, took for ever, or ended deep inside a library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_images import bmp_bomb, gif_bomb, png_bomb, text_bomb
from PIL import Image
from safetensors.torch import load_file, save_file

from gmvq import GroupedGMVQ, ResidualGMVQ
from gmvq.cli.config_files import check_config_file
from gmvq.data.decode import MAX_PIXELS, UnreadableImageError, decode, header_shape
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.training.checkpoint import describe_model, load_model, open_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build_autoencoder("tiny", channels=1, dim=4, codebook_size=8).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = build_autoencoder("tiny", channels=1, dim=4, codebook_size=8)
    entry = {
        "format_version": 1,
        "model": json.dumps(describe_model(model)),
        "settings": "{}",
        "data": "null",
    }
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"gmvq": entry, "state_dict": weights, "global_step": 3}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def edit(folder: Path, entry: str, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config[entry] |= changes
    file.write_text(json.dumps(config))


def test_one_flipped_bit_of_a_weight(saved: Path) -> None:
    flip(saved / "model.safetensors", -1000)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: .*SHA-256 differs"):
        VQAutoencoder.from_pretrained(saved)


def test_files_without_a_digest_still_load(saved: Path) -> None:
    """Those of version 0.1, and those that other programs wrote."""
    file = saved / "model.safetensors"
    save_file(load_file(file), file)
    VQAutoencoder.from_pretrained(saved)


def test_one_flipped_bit_of_a_weight_in_a_checkpoint(checkpoint: Path) -> None:
    flip(checkpoint, checkpoint.stat().st_size // 2)
    with pytest.raises(ValueError, match="is cut short or damaged"):
        load_model(checkpoint)


def test_a_checkpoint_with_an_infinite_weight(checkpoint: Path) -> None:
    contents = torch.load(checkpoint, weights_only=True)
    contents["state_dict"]["model.encoder.linear.bias"][0] = torch.inf
    torch.save(contents, checkpoint)
    with pytest.raises(ValueError, match=r"encoder\.linear\.bias holds 1 NaN or infinite values"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        (
            "quantizer",
            {"codebook_size": 10**12},
            r"quantizer\.codebook, expected \(1000000000000",
        ),
        ("quantizer", {"codebook_size": 10**30}, "the entry 'quantizer' cannot be used"),
        ("quantizer", {"dim": 10**9, "codebook_dim": None}, "shape mismatch"),
        ("quantizer", {"dim": "4"}, "the entry 'quantizer' cannot be used"),
        ("quantizer", {"precision": [1]}, "the entry 'quantizer' cannot be used"),
        ("networks", {"channels": 10**9}, "shape mismatch"),
        ("networks", {"channels": None}, "the entry 'networks' cannot be used"),
    ],
)
def test_sizes_are_compared_before_anything_is_built(
    saved: Path, entry: str, changes: dict[str, Any], message: str
) -> None:
    edit(saved, entry, **changes)
    with pytest.raises(ValueError, match=message):
        VQAutoencoder.from_pretrained(saved)


@pytest.mark.parametrize(
    ("quantizer", "change"),
    [
        (lambda: ResidualGMVQ(4, 8, 2), {"num_quantizers": 10**9}),
        (lambda: GroupedGMVQ(4, 8, 2), {"groups": 10**9, "dim": 10**9}),
    ],
)
def test_a_billion_levels(tmp_path: Path, quantizer: Any, change: dict[str, Any]) -> None:
    build_autoencoder("tiny", channels=1, quantizer=quantizer()).save_pretrained(tmp_path)
    edit(tmp_path, "quantizer", **change)
    with pytest.raises(ValueError, match=r"1000000000, but there are \d+ tensors"):
        VQAutoencoder.from_pretrained(tmp_path)


def test_tensors_of_the_wrong_kind(saved: Path) -> None:
    file = saved / "model.safetensors"
    weights = load_file(file)
    weights["encoder.linear.bias"] = weights["encoder.linear.bias"].long()
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"encoder\.linear\.bias, expected float16 to float64, got int64"):
        VQAutoencoder.from_pretrained(saved)
    weights["encoder.linear.bias"] = weights["encoder.linear.bias"].half()
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"several dtypes: encoder\.\*, got float16 and float32"):
        VQAutoencoder.from_pretrained(saved)


def test_a_config_nested_a_hundred_thousand_deep(saved: Path) -> None:
    (saved / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not valid JSON"):
        VQAutoencoder.from_pretrained(saved)


@pytest.mark.parametrize("entry", ["model", "data", "settings"])
@pytest.mark.parametrize("value", [None, "{", 3])
def test_descriptions_in_a_checkpoint(checkpoint: Path, entry: str, value: Any) -> None:
    contents = torch.load(checkpoint, weights_only=True)
    contents["gmvq"][entry] = value
    torch.save(contents, checkpoint)
    if entry == "settings":
        load_model(checkpoint)
        return
    with pytest.raises(ValueError, match=f"the entry '{entry}' is missing or damaged"):
        (load_model if entry == "model" else open_model)(checkpoint)


@pytest.mark.parametrize("entry", ["state_dict", "global_step"])
def test_a_checkpoint_without_an_entry(checkpoint: Path, entry: str) -> None:
    contents = torch.load(checkpoint, weights_only=True)
    contents[entry] = "x"
    torch.save(contents, checkpoint)
    with pytest.raises(ValueError, match=f"the entry '{entry}' is missing or damaged"):
        load_model(checkpoint)


def test_metadata_of_a_damaged_folder(saved: Path) -> None:
    (saved / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: expected the entries format_version"):
        open_model(saved)


_LAUGHS = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (code, code, b", ".join([b"*%c" % (code - 1)] * 8)) for code in range(98, 110)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"model: &m\n  x: *m\n", "aliases .* that contain themselves"),
        (_LAUGHS, "write out to more than 100,000 entries"),
        (b"[" * 20000, "nested too deeply"),
        (b"seed: \xff", r"is not a text file in UTF-8: invalid start byte at byte 6"),
        (b"hello\n", r"config\.yaml holds no options, which are lines such as 'seed: 0'; gmvq fit --print_config"),
        (b"- seed: 0\n", "holds no options"),
    ],
    ids=["contains itself", "billion laughs", "deep", "no text", "prose", "a list"],
)  # fmt: skip
def test_configs_that_kept_the_parser_busy(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        check_config_file(file)


@pytest.mark.parametrize("text", [b"seed: 3\n", b"a: &a {x: 1}\nb: *a\n", b"seed: [\n", b""])
def test_other_configs_are_left_to_the_parser(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(text)
    check_config_file(tmp_path / "config.yaml")


@pytest.mark.parametrize("make", [png_bomb, bmp_bomb, gif_bomb])
def test_decompression_bombs(tmp_path: Path, make: Any) -> None:
    data = make(60000, 60000)
    assert len(data) < 100_000
    (tmp_path / "bomb").write_bytes(data)
    with pytest.raises(
        UnreadableImageError, match=f"above the limit of {MAX_PIXELS:,} against decompression bombs"
    ):
        decode(data, 3)
    with pytest.raises(UnreadableImageError, match="decompression bombs"):
        header_shape(tmp_path / "bomb")


def test_the_limit_holds_where_pil_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImageError, match=r"60,000 x 60,000 pixels, above the limit of 89,478,485"):
        decode(png_bomb(60000, 60000), 3)


def test_text_that_unpacks_to_megabytes_and_images_without_pixels() -> None:
    with pytest.raises(UnreadableImageError):
        decode(text_bomb(90, 3), 3)
    for data in (png_bomb(0, 5), bmp_bomb(0, 0), gif_bomb(0, 0), b"", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(UnreadableImageError):
            decode(data, 3)


def test_no_other_program_is_run_on_a_picture(tmp_path: Path) -> None:
    """PIL would start Ghostscript on PostScript, which can read and write files."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(UnreadableImageError, match="not an image in any format that is read"):
        decode(tmp_path / "a.eps", 3)
    with pytest.raises(UnreadableImageError):
        header_shape(tmp_path / "a.eps")


def test_images_of_another_dtype_than_the_weights() -> None:
    model = build_autoencoder("tiny", dim=4, codebook_size=8)
    model.quantizer.init_codebook(torch.randn(64, 4))  # pyright: ignore[reportCallIssue]
    with pytest.raises(
        TypeError, match=r"weights are torch\.float32 and its input is torch\.float64; convert one of"
    ):
        model.encode(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"weights are torch\.bfloat16 and its input is torch\.float32"):
        model.bfloat16()(torch.rand(1, 3, 8, 8))


def test_a_header_that_promises_exabytes(saved: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        VQAutoencoder.from_pretrained(saved)

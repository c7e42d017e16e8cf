"""Folders and checkpoints of a model, damaged, and indices for it: what loads computes the same, or is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fuzz_damage import BYTES, TENSORS, entries
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.training.checkpoint import describe_model, load_model, open_model


class UnexpectedError(AssertionError):
    """A traceback from elsewhere, a hang, or a wrong answer."""


# Models


@cache
def small_model() -> VQAutoencoder:
    """A tiny model with a codebook of its own latents."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=1, dim=3, codebook_size=8)
    with torch.no_grad():
        model.quantizer.init_codebook(model.encoder(_probe()).movedim(1, -1))  # pyright: ignore
    return model.eval()


def _probe() -> Tensor:
    return torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(1))


@cache
def _files() -> dict[str, bytes]:
    """The two files of the model."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        small_model().save_pretrained(folder, metadata={"data": {"path": "photos", "size": 8}, "step": 3})
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@cache
def _config() -> dict[str, Any]:
    return json.loads(_files()["config.json"])


def _check_model(model: VQAutoencoder, *, same: bool) -> None:
    """It has to work, and where nothing that matters was changed, to compute the same."""
    images = _probe().to(next(model.parameters()).dtype)
    if not same:
        model.reconstruct(images)
        return
    expected = small_model()
    if not torch.equal(model.encode(images), expected.encode(_probe())):
        raise UnexpectedError("accepted, and other indices than those of the model saved")
    if not torch.allclose(model.reconstruct(images).float(), expected.reconstruct(_probe()), atol=1e-2):
        raise UnexpectedError("accepted, and other images than those of the model saved")


def _describes_the_same(config: Any) -> bool:
    return all(config.get(key) == _config()[key] for key in ("layout", "networks", "quantizer"))


def run_folder(case: tuple[str, Any], folder: Path) -> None:
    """Load a damaged model folder."""
    name, damage = case
    files = dict(_files())
    for file, data in files.items():
        (folder / file).write_bytes(data)
    if name == "entries":
        (folder / "config.json").write_text(json.dumps(damage(_config())))
    elif name == "tensors":
        changed = damage(load_file(folder / "model.safetensors"))
        save_file(changed, folder / "model.safetensors")
    elif name == "header":
        (folder / "model.safetensors").write_bytes(damage)
    else:
        (folder / name).write_bytes(damage(files[name]))
    model = VQAutoencoder.from_pretrained(folder)
    open_model(folder)
    config = json.loads((folder / "config.json").read_text())
    half = name == "tensors" and damage.kind == "half"
    _check_model(model, same=_describes_the_same(config) and not half)


def _header(numbers: tuple[int, int, str]) -> bytes:
    """A safetensors file whose header declares other sizes than it holds."""
    size, end, dtype = numbers
    tensors = {"encoder.linear.bias": {"dtype": dtype, "shape": [size], "data_offsets": [0, end]}}
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size % 2 else size) + text + b"\0" * 64


HEADERS = st.tuples(
    st.sampled_from([3, 4, 2**31, 2**31 + 1, 2**62, 2**63 - 1]),
    st.sampled_from([0, 12, 64, 2**40, 2**63 - 1]),
    st.sampled_from(["F32", "F64", "BOOL", "F8_E5M2", "nothing"]),
).map(_header)

FOLDERS = st.one_of(
    st.tuples(st.sampled_from(["config.json", "model.safetensors"]), BYTES),
    st.tuples(st.just("entries"), st.deferred(lambda: entries(_config()))),
    st.tuples(st.just("entries"), st.deferred(lambda: entries({"quantizer": _config()["quantizer"]}))),
    st.tuples(st.just("tensors"), TENSORS),
    st.tuples(st.just("header"), HEADERS),
)


# Checkpoints


@cache
def _checkpoint() -> dict[str, Any]:
    model = small_model()
    return {
        "gmvq": {
            "format_version": 1,
            "model": json.dumps(describe_model(model)),
            "settings": json.dumps({"dim": 3}),
            "data": json.dumps({"path": "photos", "size": 8}),
            "batches": 3,
        },
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "global_step": 3,
    }


class Command:
    """A pickle that runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def run_checkpoint(case: tuple[str, Any], folder: Path) -> None:
    """Load a damaged .ckpt file."""
    name, damage = case
    file = folder / "last.ckpt"
    checkpoint = dict(_checkpoint())
    same = True
    if name == "entries":
        checkpoint = damage(checkpoint)
        same = checkpoint.get("gmvq") == _checkpoint()["gmvq"]
    elif name == "description":
        described = damage(json.loads(checkpoint["gmvq"]["model"]))
        same = described == json.loads(checkpoint["gmvq"]["model"])
        checkpoint["gmvq"] = {**checkpoint["gmvq"], "model": json.dumps(described)}
    elif name == "tensors":
        checkpoint["state_dict"] = damage(checkpoint["state_dict"])
        same = damage.kind != "half"
    elif name == "command":
        checkpoint["extra"] = Command(f"touch '{folder / 'ran'}'")
    if name == "pickle":
        file.write_bytes(pickle.dumps(checkpoint | {"extra": Command(f"touch '{folder / 'ran'}'")}))
    else:
        torch.save(checkpoint, file)
    if name == "bytes":
        file.write_bytes(damage(file.read_bytes()))
    try:
        model = load_model(file)
        open_model(file)
    finally:
        if (folder / "ran").exists():
            raise UnexpectedError("the file ran a command")
    _check_model(model, same=same)


CHECKPOINTS = st.one_of(
    st.tuples(st.just("bytes"), BYTES),
    st.tuples(st.just("bytes"), BYTES),
    st.tuples(st.just("entries"), st.deferred(lambda: entries({**_checkpoint(), "state_dict": {}}))),
    st.tuples(
        st.just("description"), st.deferred(lambda: entries(json.loads(_checkpoint()["gmvq"]["model"])))
    ),
    st.tuples(st.just("tensors"), TENSORS),
    st.tuples(st.sampled_from(["command", "pickle"]), st.none()),
)


# Indices


def run_indices(case: tuple[list[int], Any, int], _: Path) -> None:
    """Decode indices of any shape, type and value."""
    shape, dtype, value = case
    indices = torch.full(shape, 1, dtype=dtype)
    if indices.numel() and (dtype.is_floating_point or abs(value) < 2 ** (8 * indices.element_size() - 1)):
        indices.view(-1)[0] = value
    decoded = small_model().decode(indices)
    assert torch.isfinite(decoded).all()
    assert decoded.shape[0] == shape[0]


INDICES = st.tuples(
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.float32]),
    st.sampled_from([-(2**40), -2, -1, 0, 7, 8, 2**31, 2**62]),
)

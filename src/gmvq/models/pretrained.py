"""A model as a folder, here or on the Hub: weights in ``model.safetensors``, the rest in ``config.json``."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import quantizers
from ..errors import require
from .nets import Decoder, Encoder, build_networks

if TYPE_CHECKING:
    from .autoencoder import VQAutoencoder

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT_VERSION = 1
_KEYS = ("format_version", "class", "layout", "networks", "quantizer")
Model = TypeVar("Model", bound="VQAutoencoder")


def save(model: VQAutoencoder, directory: str | os.PathLike[str], metadata: dict[str, Any] | None) -> None:
    """Write the two files of ``model`` into ``directory``."""
    config = {
        "format_version": FORMAT_VERSION,
        "class": type(model).__name__,
        "layout": model.layout,
        "networks": _describe_networks(model),
        "quantizer": model.quantizer.to_config(),
        "versions": {"gmvq": _version(), "torch": torch.__version__},
        "metadata": metadata or {},
    }
    text = json.dumps(config, indent=2) + "\n"  # before anything is written: fails on what JSON cannot hold
    # One contiguous copy per entry: safetensors takes neither shared nor strided storage.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, lambda file: save_file(weights, file, metadata={"format": "pt"}))
    _replace(folder / CONFIG, lambda file: file.write_text(text, encoding="utf-8"))


def load(cls: type[Model], folder: Path, encoder: nn.Module | None, decoder: nn.Module | None) -> Model:
    """Build the model described in ``folder`` on the CPU and fill in its weights."""
    file = folder / CONFIG
    config = _read_config(file, cls.__name__)
    if encoder is None or decoder is None:
        if config["networks"] == "custom":
            missing = [n for n, net in (("encoder", encoder), ("decoder", decoder)) if net is None]
            raise ValueError(
                f"{file}: the model has networks of its own, of which only weights are stored; "
                f"build them as they were and pass {' and '.join(f'{name}=...' for name in missing)}"
            )
        with _naming(file, "networks"):
            rebuilt = build_networks(**config["networks"])
        encoder = rebuilt[0] if encoder is None else encoder
        decoder = rebuilt[1] if decoder is None else decoder
    with _naming(file, "quantizer"):
        quantizer = quantizers.from_config(config["quantizer"])
    with _naming(file, "layout"):
        model = cls(encoder, quantizer, decoder, layout=config["layout"])
    _fill(model, folder / WEIGHTS)
    return model


def resolve(
    path_or_hub_id: str | os.PathLike[str], *, revision: str | None, token: str | bool | None
) -> Path:
    """Return the local folder, downloading it if the name is that of a Hub repository."""
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"expected the folder that holds {WEIGHTS} and {CONFIG}, got the file {folder}")
    name = os.fspath(path_or_hub_id)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise FileNotFoundError(
            f"{name!r} is neither an existing folder nor a Hub repository of the form 'owner/name'; "
            f"pass the folder written by save_pretrained (the current one is {Path.cwd()})"
        )
    hub = require("huggingface_hub", "train")
    try:
        return Path(
            hub.snapshot_download(name, revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG])
        )
    except (OSError, ValueError) as error:  # what every error of huggingface_hub derives from
        raise FileNotFoundError(
            f"{name!r} is not an existing folder, and as a Hub repository it could not be fetched; check the "
            f"name, the network and, for a private repository, token=...: {error}"
        ) from error


def push(
    model: VQAutoencoder,
    repo_id: str,
    *,
    private: bool,
    token: str | bool | None,
    commit_message: str,
    metadata: dict[str, Any] | None,
) -> str:
    """Upload the two files of ``model``; return the commit's address."""
    api = require("huggingface_hub", "train").HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, metadata)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))


def _describe_networks(model: VQAutoencoder) -> dict[str, Any] | str:
    """Return the arguments of ``build_networks``, or "custom"."""
    encoder, decoder = model.encoder, model.decoder
    if type(encoder) is Encoder and type(decoder) is Decoder and encoder.config == decoder.config:
        return encoder.config
    return "custom"


def _version() -> str:
    try:
        return version("gmvq")
    except PackageNotFoundError:  # run from the source tree
        return "unknown"


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name beside ``file``, then rename: readers see the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _read_config(file: Path, class_name: str) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; is this a folder written by save_pretrained?")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON; restore it or save the model again: {error}") from error
    missing = [key for key in _KEYS if key not in config] if isinstance(config, dict) else list(_KEYS)
    if missing:
        raise ValueError(f"{file}: expected the entries {', '.join(_KEYS)}; missing: {', '.join(missing)}")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{file}: expected format_version {FORMAT_VERSION}, got {config['format_version']!r}; a higher "
            "one comes from a newer gmvq: upgrade with pip install -U gmvq"
        )
    if config["class"] != class_name:
        raise ValueError(
            f"{file}: expected a model of class {class_name}, got {config['class']!r}: load it with that"
        )
    return config


@contextmanager
def _naming(file: Path, entry: str) -> Iterator[None]:
    """Name the file and the entry in errors about its value."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: the entry {entry!r} cannot be used: {error}") from error


def _fill(model: nn.Module, file: Path) -> None:
    """Copy the file's tensors into ``model``, which takes over their dtypes."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; was the save or the download interrupted?")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file; copy or save it again: {error}") from error
    own: dict[str, Tensor] = model.state_dict()
    problems = [
        *(f"missing: {name}" for name in own if name not in weights),
        *(f"unexpected: {name}" for name in weights if name not in own),
        *(
            f"shape mismatch: {name}, expected {tuple(own[name].shape)}, got {tuple(weights[name].shape)}"
            for name in own
            if name in weights and own[name].shape != weights[name].shape
        ),
    ]
    if problems:
        shown = "\n  ".join(problems[:8] + [f"... and {len(problems) - 8} more"] * (len(problems) > 8))
        raise ValueError(
            f"{file} does not fit the model of {CONFIG} and the networks passed; build encoder and decoder "
            f"with the arguments they were saved with:\n  {shown}"
        )
    for name, value in model.state_dict(keep_vars=True).items():
        value.data = value.data.to(weights[name].dtype)
    model.load_state_dict(weights)

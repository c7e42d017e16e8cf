"""A model as a folder: weights in ``model.safetensors``, the rest in ``config.json``."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from .. import quantizers
from ..files import atomic_write
from .nets import Decoder, Encoder, build_networks
from .weights import DIGEST, check_parts, fill, misfits, mixed_dtypes, naming, read_weights, tensors_digest

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
    header = {"format": "pt", DIGEST: tensors_digest(weights)}
    with atomic_write(folder / WEIGHTS) as file:
        save_file(weights, file, metadata=header)
    with atomic_write(folder / CONFIG) as file:
        file.write_text(text, encoding="utf-8")


def load(cls: type[Model], folder: Path, encoder: nn.Module | None, decoder: nn.Module | None) -> Model:
    """Build the model described in ``folder`` on the CPU and fill in its weights."""
    file = folder / CONFIG
    config = read_config(file, cls.__name__)
    missing = [name for name, net in (("encoder", encoder), ("decoder", decoder)) if net is None]
    if missing and config["networks"] == "custom":
        raise ValueError(
            f"{file}: the model has networks of its own, of which only weights are stored; "
            f"build them as they were and pass {' and '.join(f'{name}=...' for name in missing)}"
        )
    weights = read_weights(folder / WEIGHTS)

    def build() -> Model:
        rebuilt: tuple[nn.Module | None, nn.Module | None] = (None, None)
        if missing:
            with naming(file, "networks"):
                rebuilt = build_networks(**config["networks"])
        with naming(file, "quantizer"):
            quantizer = quantizers.from_config(config["quantizer"])
        with naming(file, "layout"):
            networks = (encoder or rebuilt[0], decoder or rebuilt[1])
            return cls(networks[0], quantizer, networks[1], layout=config["layout"])  # pyright: ignore

    check_parts(config["quantizer"], weights, file)
    with torch.device("meta"):  # shapes alone, so that a size in a damaged file asks for no memory
        own = build().state_dict()
    problems = misfits(weights, own) or ([] if config["networks"] == "custom" else mixed_dtypes(weights))
    if problems:
        shown = "\n  ".join(problems[:8] + [f"... and {len(problems) - 8} more"] * (len(problems) > 8))
        raise ValueError(
            f"{folder / WEIGHTS} does not fit the model of {CONFIG} and the networks passed; build encoder and decoder "
            f"with the arguments they were saved with:\n  {shown}"
        )
    model = build()
    fill(model, weights)
    return model


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


def read_config(file: Path, class_name: str, keys: tuple[str, ...] = _KEYS) -> dict[str, Any]:
    """Read a ``config.json`` of this package: a model of ``class_name`` with these entries.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, an entry is missing, or another format version or class.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; is this a folder written by save_pretrained?")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: nested thousands deep
        raise ValueError(f"{file} is not valid JSON; restore it or save the model again: {error}") from error
    if isinstance(config, dict) and config.get("class", class_name) != class_name:
        raise ValueError(
            f"{file}: expected a model of class {class_name}, got {config['class']!r}: load it with that"
        )
    missing = [key for key in keys if key not in config] if isinstance(config, dict) else list(keys)
    if missing:
        raise ValueError(f"{file}: expected the entries {', '.join(keys)}; missing: {', '.join(missing)}")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{file}: expected format_version {FORMAT_VERSION}, got {config['format_version']!r}; a higher "
            "one comes from a newer gmvq: upgrade with pip install -U gmvq"
        )
    return config

"""A model as a folder: weights in ``model.safetensors``, the rest in ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from .. import quantizers
from ..environment import versions
from ..errors import check_version
from ..files import PathLike, atomic_file, remove_leftovers, write_text
from ..reading import read_json
from .diffusers_networks import is_own, networks_from
from .interface import networks_of
from .weights import DIGEST, build_filled, check_parts, named_in_errors, read_weights, tensors_digest

if TYPE_CHECKING:
    from .autoencoder import VQAutoencoder

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT_VERSION = 1
_KEYS = ("format_version", "class", "layout", "networks", "quantizer")
Model = TypeVar("Model", bound=nn.Module)


def save(model: VQAutoencoder, directory: PathLike, metadata: dict[str, Any] | None) -> None:
    """Write the two files of ``model`` into ``directory``."""
    config = {
        "format_version": FORMAT_VERSION,
        "class": type(model).__name__,
        "layout": model.layout,
        "networks": (is_own(model) and networks_of(model)) or "custom",
        "quantizer": model.quantizer.to_config(),
        "versions": versions("gmvq", "torch"),
        "metadata": metadata or {},
    }
    write_folder(directory, config, model.state_dict())


def write_folder(directory: PathLike, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``model.safetensors`` and ``config.json``; each replaces its predecessor in one step.

    Raises:
        TypeError: JSON cannot hold the config; nothing is written then.
    """
    text = json.dumps(config, indent=2) + "\n"
    # One contiguous copy per entry: safetensors takes neither shared nor strided storage.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    # Of a process that was killed when it wrote them.
    remove_leftovers(directory, WEIGHTS)
    # Not save_file, which writes to a temporary name of its own that a kill leaves behind.
    with atomic_file(Path(directory) / WEIGHTS) as file:
        file.write(safetensors.save(weights, metadata={"format": "pt", DIGEST: tensors_digest(weights)}))
    write_text(Path(directory) / CONFIG, text)


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
    return build_described(cls, config, weights, file, folder / WEIGHTS, encoder, decoder)


def build_described(
    cls: type[Model],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    file: object,
    where: object,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> Model:
    """Build a model by its networks, quantizer and layout in ``config``, and fill in tensors that have to fit it.

    ``file`` and ``where`` are the files of the two, for errors: a ValueError where an entry cannot be used, or tensors
    do not fit. An encoder or decoder that is given takes the place of the one described.
    """

    def build() -> Model:
        networks: tuple[nn.Module | None, nn.Module | None] = (None, None)
        if encoder is None or decoder is None:
            with named_in_errors(file, "networks"):
                networks = networks_from(**config["networks"])
        with named_in_errors(file, "quantizer"):
            quantizer = quantizers.from_config(config["quantizer"])
        with named_in_errors(file, "layout"):
            parts: Any = (encoder or networks[0], quantizer, decoder or networks[1])
            return cls(*parts, layout=config["layout"])

    check_parts(config["quantizer"], weights, file)
    hint = "; build encoder and decoder with the arguments they were saved with"
    return build_filled(build, weights, where, hint=hint, mixed=config["networks"] == "custom")


def read_config(file: Path, class_name: str, keys: tuple[str, ...] = _KEYS) -> dict[str, Any]:
    """Read a ``config.json`` of this package: a model of ``class_name`` with these entries."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; is this a folder written by save_pretrained?")
    try:
        config = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON; restore it or save the model again: {error}") from error
    if isinstance(config, dict) and config.get("class", class_name) != class_name:
        raise ValueError(
            f"{file}: expected a model of class {class_name}, got {config['class']!r}: load it with that"
        )
    if isinstance(config, dict) and "_class_name" in config:
        raise ValueError(
            f"{file.parent} holds a model of diffusers, which has no codes of gmvq; gmvq transplant gives it some"
        )
    missing = [key for key in keys if key not in config] if isinstance(config, dict) else list(keys)
    if missing:
        raise ValueError(f"{file}: expected the entries {', '.join(keys)}; missing: {', '.join(missing)}")
    check_version(file, config["format_version"], FORMAT_VERSION)
    return config

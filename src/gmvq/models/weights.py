"""Tensors of a file against the model they are for: their digest, and what does not fit, before anything is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import as_value_error
from ..quantizers.migrate import GONE

if TYPE_CHECKING:
    from .autoencoder import VQAutoencoder

#: Key of the digest in the header of a safetensors file.
DIGEST = "gmvq_digest"
Module = TypeVar("Module", bound=nn.Module)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def named_in_errors(file: object, entry: str) -> AbstractContextManager[None]:
    """Name the file and the entry in errors about its value, of which constructors raise almost any."""
    return as_value_error(f"{file}: the entry {entry!r} cannot be used", Exception)


def check_parts(config: Any, weights: Mapping[str, Any], file: object) -> None:
    """Refuse more levels or groups than there are tensors with a ValueError, before so many are built one by one.

    (Every other size costs nothing on the meta device, where shapes are compared first.)
    """
    config = config if isinstance(config, dict) else {}
    shared = config.get("type") == "GroupedGMVQ" and config.get("shared_codebook")
    for name in ("num_quantizers", "scales") if shared else ("num_quantizers", "scales", "groups"):
        value = config.get(name)
        if isinstance(value, int) and value > max(len(weights), 64):
            raise ValueError(
                f"{file}: the entry 'quantizer' has {name}={value}, but there are {len(weights)} tensors in all; "
                "restore the file or save the model again"
            )


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def described_digest(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a configuration and every tensor, in hexadecimal digits."""
    text = json.dumps(config, sort_keys=True) + tensors_digest(tensors)
    return hashlib.sha256(text.encode()).hexdigest()


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read all tensors, and compare them with the digest that they were saved with (files of 0.1 have none)."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; was the save or the download interrupted?")
    # Errors of safetensors, and of torch for a dtype that it does not have.
    with as_value_error(f"{file} is not a whole safetensors file", Exception, advice="copy or save it again"):
        with safe_open(file, "pt") as stored:
            header = stored.metadata() or {}
        weights = load_file(file)
    if DIGEST in header and header[DIGEST] != tensors_digest(weights):
        raise ValueError(
            f"{file} is damaged: its tensors are not those that were saved (their SHA-256 differs); copy it again"
        )
    return weights


#: Tensors that keep a row for each code, NaN where a code has none.
_NAN_SAYS_NONE = ("frozen",)


def check_values(weights: Mapping[str, Any], where: object) -> None:
    """Refuse tensors with NaN or infinite values, which would encode in silence, with a ValueError that names one."""
    for name, value in weights.items():
        if name.rpartition(".")[2] in _NAN_SAYS_NONE:
            continue
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{where}: {name} holds {bad:,} NaN or infinite values of {value.numel():,}: the training diverged, or "
                "the file is damaged; take an earlier checkpoint"
            )


def mismatches(weights: Mapping[str, Any], own: Mapping[str, Tensor]) -> list[str]:
    """Say in one line each which tensors are missing, superfluous, or of a shape or kind that cannot be filled in."""
    found = [
        *(f"missing: {name}" for name in own if name not in weights),
        *(f"unexpected: {name}" for name in weights if name not in own and name.split(".")[-1] not in GONE),
    ]
    for name, value in own.items():
        stored, floats = weights.get(name), value.is_floating_point()
        if stored is None:
            continue
        if not isinstance(stored, Tensor):
            found.append(f"no tensor: {name}, got {type(stored).__name__}")
        elif stored.shape != value.shape:
            found.append(f"shape mismatch: {name}, expected {tuple(value.shape)}, got {tuple(stored.shape)}")
        elif stored.dtype not in (_FLOATS if floats else (value.dtype,)):
            kind = "float16 to float64" if floats else _name(value.dtype)
            found.append(f"dtype mismatch: {name}, expected {kind}, got {_name(stored.dtype)}")
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def mixed_dtypes(weights: Mapping[str, Tensor]) -> list[str]:
    """Say which of the networks of a model or prior has tensors of several dtypes, with which it cannot compute."""
    found = []
    for part in ("encoder.", "decoder.", "network."):
        kinds = {_name(value.dtype) for name, value in weights.items() if name.startswith(part)}
        if len(kinds) > 1:
            found.append(f"several dtypes: {part}*, got {' and '.join(sorted(kinds))}")
    return found


def build_filled(
    build: Callable[[], Module],
    weights: Mapping[str, Tensor],
    where: object,
    *,
    hint: str = "",
    mixed: bool = False,
) -> Module:
    """Build a model and fill in the tensors of the file ``where``, once they are known to fit.

    They do not where one holds NaN or infinity, or where a network has several dtypes, but if ``mixed``: a ValueError,
    with a ``hint`` what else the tensors have to fit.
    """
    with torch.device("meta"):  # shapes alone, so that a size in a damaged file asks for no memory
        own = build().state_dict()
    problems = mismatches(weights, own) or ([] if mixed else mixed_dtypes(weights))
    if problems:
        shown = "; ".join(problems[:8] + [f"... and {len(problems) - 8} more"] * (len(problems) > 8))
        raise ValueError(f"{where} does not fit the model described in it{hint}: {shown}")
    check_values(weights, where)
    model = build()
    copy_weights(model, weights)
    return model


def copy_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors that fit (``mismatches``) into ``model``, which takes over their dtypes."""
    for name, value in model.state_dict(keep_vars=True).items():
        value.data = value.data.to(weights[name].dtype)
    model.load_state_dict(weights)


def model_digest(model: VQAutoencoder) -> str:
    """SHA-256 over the quantizer's configuration, the layout, and name, dtype, shape and bytes of every tensor.

    The same for a model in memory, its folder and its .ckpt, on any device; another one after any change of a weight.

    Example:
        >>> model_digest(model)
        'sha256:...'
    """
    config = {"layout": model.layout, "quantizer": model.quantizer.to_config()}
    return f"sha256:{described_digest(config, model.state_dict())}"

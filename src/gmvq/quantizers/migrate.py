"""Files of gmvq 0.1, read as they would be written now; the one place that knows the former names and units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .state import MixtureState

#: Former name -> name now, of parameters that were stored divided by ``_GAIN``.
_RENAMED = {
    "scaled_codebook": "codebook",
    "scaled_log_precision": "log_precision",
    "scaled_log_scale": "scale",
    "scaled_weight_logits": "weight_logits",
    "scaled_log_variance": "log_variances",
}
_GAIN = 10.0


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config of 0.1, known by its ``init``, as one of now: its decoder reads the latents' own units."""
    if "init" not in config:
        return config
    rest = {key: value for key, value in config.items() if key != "init"}
    return {"support": None, "codebook_dim": None, **rest, "units": "latents"}


def migrate_state(layer: MixtureState, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The tensors of 0.1 under ``prefix`` in ``state``, known by their names, replaced by those of now; a pre-hook."""
    found = {old: state.pop(prefix + old) for old in _RENAMED if prefix + old in state}
    if not found:
        return
    started = bool(state.pop(prefix + "initialized", torch.tensor(True)))
    new = {_RENAMED[old]: value * _GAIN for old, value in found.items()}
    if "scale" in new:
        new["scale"] = new["scale"].exp()
    like = next(iter(found.values()))
    new["mean"] = like.new_zeros(layer.dim)
    new["share"] = like.new_full((layer.codebook_size,), 1.0 / layer.codebook_size)
    new["batches"] = torch.zeros((), dtype=torch.int64, device=like.device)
    if not started:
        new["codebook"] = torch.zeros_like(layer.codebook, device=like.device)
        new["scale"] = like.new_full((1,), 0.0 if layer.standardize else 1.0)
    state.update({prefix + name: value for name, value in new.items()})

"""Files of earlier versions, read as they would be written now; the one place that knows former names and units."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .state import MixtureState

#: Former name -> name now, of parameters that were stored divided by ``_UNIT``.
_RENAMED = {
    "scaled_codebook": "codebook",
    "scaled_log_precision": "log_precision",
    "scaled_log_scale": "scale",
    "scaled_weight_logits": "weight_logits",
    "scaled_log_variance": "log_variances",
}
#: What these parameters were divided by.
_UNIT = 10.0
#: Parameters of options that are gone.
GONE = ("log_variances",)
#: Options that are gone, with the value that all layers have now. Files keep them, as a model's digest is of its
#: configuration.
FORMER: dict[str, dict[str, Any]] = {
    "Precision": {"fit": "ml"},
    "Variance": {"kind": "adaptive"},
    "GaussianMixtureVQ": {"backend": "auto"},
}


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config as one of now; one of 0.1, known by its ``init``, has a decoder that reads the latents' own units."""
    rest = {key: value for key, value in config.items() if key not in ("init", "backend")}
    if "init" not in config:
        return rest
    return {"support": None, "codebook_dim": None, **rest, "units": "latents"}


def migrate_part(part: dict[str, Any]) -> dict[str, Any]:
    """A part with options that are gone as one of now: codes are as before, and further training is the default's."""
    kind = part.get("type")
    rest = {name: value for name, value in part.items() if name not in FORMER.get(str(kind), ())}
    gone = [
        f"{kind}({name}={part[name]!r})"
        for name, value in FORMER.get(str(kind), {}).items()
        if part.get(name, value) != value
    ]
    if gone and kind == "Variance":
        rest.pop("sigma", None)
        if part["kind"] == "none":
            rest["noise"] = {"type": "Constant", "value": 0.0}
    elif kind == "ReinMax":
        gone, rest["type"] = ["ReinMax"], "StraightThroughGumbel"
    elif kind == "Objective" and part.get("kind") == "none":
        rest |= {"kind": "albo", "beta": {"type": "Constant", "value": 0.0}}
    if gone:
        warnings.warn(
            f"{gone[0]} is no option any more; the layer encodes and decodes as before, and trains as by default",
            UserWarning,
            stacklevel=2,
        )
    return rest


def migrate_state(layer: MixtureState, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The tensors of earlier versions under ``prefix`` in ``state``, replaced by those of now; a pre-hook."""
    found = {old: state.pop(prefix + old) for old in _RENAMED if prefix + old in state}
    for name in GONE:
        state.pop(prefix + name, None)
    if not found:
        return
    started = bool(state.pop(prefix + "initialized", torch.tensor(True)))
    new = {_RENAMED[old]: value * _UNIT for old, value in found.items() if _RENAMED[old] not in GONE}
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

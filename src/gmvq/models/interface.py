"""What saving, exporting and measuring ask of a tokenizer, and its decoder run on latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..types import QuantizerOutput

if TYPE_CHECKING:
    from .autoencoder import VQAutoencoder


class QuantizerLike(Protocol):
    """What the autoencoder asks of a quantizer module; latents are (..., dim)."""

    dim: int
    codebook_size: int

    def __call__(self, latents: Tensor, mask: Tensor | None = None, **spend: Any) -> QuantizerOutput: ...
    def encode(self, latents: Tensor, mask: Tensor | None = None, **spend: Any) -> Tensor: ...
    def get_codes_from_indices(self, indices: Tensor) -> Tensor: ...
    def parameter_groups(self, lr: float) -> list[dict[str, Any]]: ...
    def to_config(self) -> dict[str, Any]: ...


def feature_axis(model: Any) -> int:
    """The axis of the features in what the encoder puts out and the decoder takes, by the model's ``layout``."""
    return 1 if getattr(model, "layout", "channels_first") == "channels_first" else -1


def decode_latents(model: Any, latents: Tensor) -> Tensor:
    """Run a model's decoder on latents (B, *spatial, D), in the dtype of its weights and in its layout.

    They are made contiguous, so that equal values take equal paths in the decoder.
    """
    parameter = next(model.decoder.parameters(), None)
    if parameter is not None and latents.dtype != parameter.dtype:
        latents = latents.to(parameter.dtype)
    return model.decoder(latents.movedim(-1, feature_axis(model)).contiguous())


def networks_of(model: VQAutoencoder) -> dict[str, Any]:
    """The arguments of ``build_networks`` that a model's networks were built with; {} for networks of one's own."""
    config = getattr(model.encoder, "config", None)
    return config if isinstance(config, dict) and config == getattr(model.decoder, "config", None) else {}


def code_sizes(quantizer: Any) -> tuple[int, ...]:
    """K of each code of a position, in their order on the last axis of the indices."""
    sizes: tuple[int, ...] = getattr(quantizer, "codebook_sizes", None) or (quantizer.codebook_size,)
    count = math.prod(getattr(quantizer, "index_shape", ()))
    return tuple(size for size in sizes for _ in range(count // len(sizes)))


def sizes_text(sizes: Sequence[int]) -> str:
    """The number of codes in words: one number where the codes of a position all have the same, "256 + 64" else."""
    shown = sizes if len(set(sizes)) > 1 else sizes[:1]
    return " + ".join(f"{size:,}" for size in shown)


def spending(quantizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    """``budget`` and ``distortion``, those that are not None."""
    unknown = given.keys() - {"budget", "distortion"}
    if unknown:
        raise TypeError(f"unexpected arguments {', '.join(sorted(unknown))}; known are budget and distortion")
    spend = {name: value for name, value in given.items() if value is not None}
    if spend and not hasattr(quantizer, "code_counts"):
        raise ValueError(
            f"{' and '.join(spend)}: a {type(quantizer).__name__} has a code for each position; train a RaggedGMVQ "
            "(gmvq fit --model.ragged true --model.scales 3)"
        )
    return spend


def check_axes(model: VQAutoencoder, indices: Tensor) -> None:
    """Raise ValueError unless indices have the axes (B, *spatial, *index_shape) of a model, none of length 0.

    Of networks of one's own the number of axes is not known.
    """
    axes = networks_of(model).get("spatial_dims")
    if torch.compiler.is_compiling() or axes is None:
        return
    codes = tuple(getattr(model.quantizer, "index_shape", ()))
    if indices.ndim != 1 + axes + len(codes) or 0 in indices.shape[1:]:
        spatial = ("T",) if axes == 1 else ("D", "H", "W")[3 - axes :]
        names = ", ".join(("B", *spatial, *map(str, codes)))
        raise ValueError(
            f"indices must have shape ({names}), got {tuple(indices.shape)}; a batch of one is indices[None]"
        )


def as_floats(latents: Tensor) -> Tensor:
    """Latents in float32 at least: what a quantizer computes in."""
    return latents.float() if latents.dtype in (torch.float16, torch.bfloat16) else latents


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every submodule's mode is restored, those frozen in eval included."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True

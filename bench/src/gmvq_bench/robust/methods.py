"""The methods by name: ours as it comes, and rivals with one sensible set of options for all settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..peer import peer
from ..rivals import build_baseline
from ..rivals.dress import dress
from .ablations import ABLATIONS, ablated
from .setting import Setting

Build = Callable[[int, int], nn.Module]
"""(dim, codebook_size) -> a module that maps latents (..., D) to (quantized, indices, loss)."""

OURS = ("gm-vq", "gm-vq+progress")
PUBLISHED = ("ema", "rotation")
DRESSED = ("ema-dressed", "rotation-dressed")
#: On a quarter of the settings.
MORE = ("simvq", "cvq", "fsq", "ema-best-rate")
METHODS = (*OURS, *PUBLISHED, *DRESSED, *MORE)
#: Rates that ``ema-best-rate`` tries, times the setting's.
RATES = (1 / 3, 1.0, 3.0)


def methods_of(setting: Setting) -> tuple[str, ...]:
    """The methods that run in a setting."""
    return METHODS if setting.more_rivals else METHODS[: -len(MORE)]


def build_method(name: str, setting: Setting) -> nn.Module:
    """The untrained quantizer of a method.

    Raises:
        ValueError: an unknown name, or a size that the method does not have.
        MissingExtraError: its package is not installed.
    """
    dim, size = setting.dim, setting.codebook_size
    if name in OURS:
        from gmvq.quantizers import GaussianMixtureVQ

        layer = GaussianMixtureVQ(dim, size)
        layer.wants_progress = name.endswith("+progress")  # pyright: ignore[reportArgumentType]
        return layer
    if name in ABLATIONS:
        return ablated(name, dim, size)
    if name in ("simvq", "cvq", "fsq"):
        return build_baseline(name, dim, size)
    if name in DRESSED:
        rival = "vq-ema-replace" if name == "ema-dressed" else "vq-rotation"
        return dress(build_baseline(rival, dim, size, threshold_ema_dead_code=_dead(setting)))
    if name in ("ema", "rotation", "ema-best-rate"):
        return _package(setting, rotation_trick=name == "rotation")
    raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")


class Rows(nn.Module):
    """A layer of rows (1, n, D) for latents of any leading shape."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, indices, loss = self.layer(latents.reshape(1, -1, latents.shape[-1]))
        return quantized.view(latents.shape), indices.view(latents.shape[:-1]), loss.sum()


def _package(setting: Setting, **options: Any) -> nn.Module:
    """``VectorQuantize`` with moving averages, k-means start and replacement; the rest is the package's default."""
    layer = peer("vector_quantize_pytorch").VectorQuantize
    inner = layer(
        dim=setting.dim,
        codebook_size=setting.codebook_size,
        kmeans_init=True,
        threshold_ema_dead_code=_dead(setting),
        **options,
    )
    return Rows(inner)


def _dead(setting: Setting) -> float:
    """Vectors per batch, on average, below which a code is dead: 2, as the package advises.

    Where batches are small for the codebook, a fifth of its equal share: at 2, most codes would be replaced at every
    step. Both this and the default decay of 0.8 were the better choice in most of five settings of this design, against
    2 and against 0.99.
    """
    return min(2.0, setting.batch * setting.positions / setting.codebook_size / 5)

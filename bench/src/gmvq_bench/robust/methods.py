"""The methods by name: ours as it comes, rivals with one sensible set of options for all settings, and ablations."""

from __future__ import annotations

from typing import Any

from torch import nn

from gmvq import (
    Constant,
    GaussianMixtureVQ,
    GumbelSoftmax,
    Objective,
    Precision,
    StraightThroughGumbel,
    Variance,
)

from ..rivals import build_baseline
from ..rivals.base import dress
from ..rivals.peers import Rows, peer
from .design import Setting

OURS = "gm-vq"
PUBLISHED = ("ema", "rotation")
DRESSED = ("ema-dressed", "rotation-dressed")
MORE = ("simvq", "cvq", "fsq")
#: At that of ``RATES`` with the lowest validation MSE: ours, and its rival.
TUNED = ("gm-vq-best-rate", "ema-best-rate")
#: On a quarter of the settings.
QUARTER = (*MORE, *TUNED)
METHODS = (OURS, *PUBLISHED, *DRESSED, *QUARTER)
#: Times the setting's.
RATES = (1 / 3, 1.0, 3.0)

#: One part of the layer taken away, or put back as the literature has it: options, and attributes set afterwards.
ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no KL": ({"objective": Objective(beta=Constant(0.0))}, {}),
    "ELBO": ({"objective": Objective(kind="elbo")}, {}),
    "KL of weight 1": ({"objective": Objective(beta=Constant(1.0))}, {}),
    "latent term and adaptive variance": (
        {"objective": Objective(gamma=Constant(1.0)), "variance": Variance(noise=Constant(1.0))},
        {},
    ),
    "no commitment": ({"objective": Objective(commitment=0.0)}, {}),
    "no soft gradient (sharpening 100)": ({"precision": Precision(sharpening=Constant(100.0))}, {}),
    "no straight-through gradient": ({}, {"straight_through": False}),
    "codes drawn with Gumbel noise": ({"estimator": StraightThroughGumbel(noise=Constant(1.0))}, {}),
    "decoder reads the mean codeword": ({"estimator": GumbelSoftmax()}, {}),
    "posterior on all codes": ({"support": None}, {}),
    "no births": ({}, {"births": False}),
    "started at the first batch": ({"start_after": 0}, {}),
}


def is_ours(name: str) -> bool:
    """Whether a method is our layer, as it comes or changed."""
    return name in (OURS, TUNED[0], *ABLATIONS)


def build_method(name: str, setting: Setting) -> nn.Module:
    """The untrained quantizer of a method: latents (..., D) to (quantized, indices, loss).

    Raises:
        ValueError: an unknown name, or a size that the method does not have.
        MissingExtraError: its package is not installed.
    """
    sizes = (setting.dim, setting.codebook_size)
    if is_ours(name):
        options, attributes = ABLATIONS.get(name, ({}, {}))
        layer = GaussianMixtureVQ(*sizes, **options)
        for attribute, value in attributes.items():
            setattr(layer, attribute, value)
        return layer
    if name in MORE:
        return build_baseline(name, *sizes)
    rotation = name.startswith("rotation")
    if name in DRESSED:
        rival = "vq-rotation" if rotation else "vq-ema-replace"
        return dress(build_baseline(rival, *sizes, threshold_ema_dead_code=_dead(setting)))
    if name in (*PUBLISHED, TUNED[1]):
        # Moving averages, k-means start and replacement; the rest is the package's default.
        options = {"kmeans_init": True, "threshold_ema_dead_code": _dead(setting), "rotation_trick": rotation}
        return Rows(peer("vector_quantize_pytorch").VectorQuantize(sizes[0], sizes[1], **options))
    raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")


def _dead(setting: Setting) -> float:
    """Vectors per batch, on average, below which a code is dead: 2, as the package advises.

    Where batches are small for the codebook, a fifth of its equal share: at 2, most codes would be replaced at every
    step. Both this and the default decay of 0.8 were the better choice in most of five settings of this design, against
    2 and against 0.99.
    """
    return min(2.0, setting.batch * setting.positions / setting.codebook_size / 5)

"""One part of the layer taken away, or put back as the literature has it, at a time."""

from __future__ import annotations

from typing import Any

from gmvq import (
    Constant,
    GaussianMixtureVQ,
    GumbelSoftmax,
    Objective,
    Precision,
    StraightThroughGumbel,
    Variance,
)

#: name -> options of the layer, and attributes set on it afterwards.
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


def ablated(name: str, dim: int, codebook_size: int) -> GaussianMixtureVQ:
    """The layer without, or with, what the name says."""
    options, attributes = ABLATIONS[name]
    layer = GaussianMixtureVQ(dim, codebook_size, **options)
    for attribute, value in attributes.items():
        setattr(layer, attribute, value)
    return layer

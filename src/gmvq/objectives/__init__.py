"""Objectives and bounds in nats: likelihoods of the reconstruction, ELBO, ALBO, importance-weighted bound."""

from __future__ import annotations

from .bounds import Bound, albo, elbo, importance_weighted_bound
from .information import (
    AggregatePosterior,
    aggregate_entropy,
    bits_per_dimension,
    conditional_entropy,
    information,
)
from .latent_model import LatentModel, MixtureQuantizer
from .likelihoods import (
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    negative_evidence,
    positions_per_image,
)
from .logit_laplace import LogitLaplaceLikelihood

__all__ = [
    "AggregatePosterior",
    "Bound",
    "GaussianLikelihood",
    "LaplaceLikelihood",
    "LatentModel",
    "Likelihood",
    "LogitLaplaceLikelihood",
    "MixtureQuantizer",
    "aggregate_entropy",
    "albo",
    "bits_per_dimension",
    "conditional_entropy",
    "elbo",
    "importance_weighted_bound",
    "information",
    "negative_evidence",
    "positions_per_image",
]

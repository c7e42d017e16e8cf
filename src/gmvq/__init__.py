"""Gaussian-mixture vector quantization: discrete tokens from one probabilistic model.

The core (this module, ``functional``, ``quantizers``, ``objectives``, ``models``) needs torch, numpy and
safetensors; everything else is an extra and imported when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import on_first_use

if TYPE_CHECKING:
    from .functional.estimators import GumbelSoftmax, StraightThroughGumbel
    from .functional.schedules import Constant, Cosine, Exponential, Linear
    from .models import VQAutoencoder, build_autoencoder
    from .objectives import (
        GaussianLikelihood,
        LaplaceLikelihood,
        LogitLaplaceLikelihood,
        negative_evidence,
    )
    from .quantizers import (
        ChannelsFirst,
        GaussianMixtureVQ,
        GroupedGMVQ,
        Objective,
        Precision,
        PyramidGMVQ,
        RaggedGMVQ,
        ResidualGMVQ,
        Variance,
    )
    from .types import QuantizerOutput

__version__ = "0.1.0"

_WHERE = {
    "ChannelsFirst": "quantizers",
    "GaussianMixtureVQ": "quantizers",
    "GroupedGMVQ": "quantizers",
    "PyramidGMVQ": "quantizers",
    "RaggedGMVQ": "quantizers",
    "ResidualGMVQ": "quantizers",
    "Objective": "quantizers",
    "Precision": "quantizers",
    "Variance": "quantizers",
    "QuantizerOutput": "types",
    "GumbelSoftmax": "functional.estimators",
    "StraightThroughGumbel": "functional.estimators",
    "Constant": "functional.schedules",
    "Cosine": "functional.schedules",
    "Exponential": "functional.schedules",
    "Linear": "functional.schedules",
    "GaussianLikelihood": "objectives",
    "LaplaceLikelihood": "objectives",
    "LogitLaplaceLikelihood": "objectives",
    "negative_evidence": "objectives",
    "VQAutoencoder": "models",
    "build_autoencoder": "models",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = on_first_use(__name__, _WHERE)

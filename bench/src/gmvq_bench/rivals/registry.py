"""The rival quantizers by name, with the paper that each comes from.

Those up to ``bsq`` are of vector-quantize-pytorch 1.32, the others are written here from their papers. Codebooks of
moving averages, k-means starts and replacements change inside training forward, not by the optimizer, and statistics
are those of one process. ``fsq``, ``fsp``, ``lfq`` and ``bsq`` need a K that is a power of two.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from gmvq.errors import check_size

from .base import BaselineQuantizer
from .continuous import GaussianVAE, Identity
from .cvq import ClusteredVQ
from .gm_vq_published import PublishedGMVQ
from .gq import GaussianQuant
from .gumbel import GumbelVQ
from .ibq import IndexBackpropagationVQ
from .lgq import LearnableGeometricVQ
from .opt_vq import OptimalTransportVQ
from .peers import PEERS, Peer
from .sq_vae import GaussianSQ

#: name -> (dim, codebook_size, **options) -> an untrained quantizer; in the order of the tables.
BASELINES: dict[str, Callable[..., BaselineQuantizer]] = {
    **PEERS,
    # Takida et al., arXiv 2205.07547
    "sq-vae": GaussianSQ,
    # Yan et al., arXiv 2410.10180: the method of our layer, as its paper has it
    "gm-vq-published": PublishedGMVQ,
    # Jang et al., arXiv 1611.01144; Ramesh et al., arXiv 2102.12092: the code is not the nearest codeword
    "gumbel": GumbelVQ,
    # Zheng and Vedaldi, arXiv 2307.15139
    "cvq": ClusteredVQ,
    # Shi et al., arXiv 2412.02692: the code of the largest dot product
    "ibq": IndexBackpropagationVQ,
    # Zhang et al., arXiv 2412.15195: assigned by transport in training only
    "optvq": OptimalTransportVQ,
    # Altun et al., arXiv 2602.16086
    "lgq": LearnableGeometricVQ,
    # Xu et al., arXiv 2512.06609: the codebook is random and stays; the code is not the nearest codeword
    "gq": GaussianQuant,
    # A plain autoencoder, and Kingma and Welling, arXiv 1312.6114: no codes, index 0 everywhere
    "ae": Identity,
    "gaussian-vae": GaussianVAE,
}


def options_of(name: str) -> dict[str, Any]:
    """Names of a baseline's options, with their defaults."""
    build = BASELINES[name]
    if isinstance(build, Peer):
        return dict(build.defaults)
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build_baseline(name: str, dim: int, codebook_size: int, **options: Any) -> BaselineQuantizer:
    """The untrained quantizer of a baseline, with options of ``options_of(name)``.

    Raises:
        ValueError: an unknown name or option, or a size that the method does not have.
        MissingExtraError: its package is not installed.

    Example:
        >>> build_baseline("cvq", 16, 256)(torch.randn(2, 8, 8, 16)).indices.shape
        torch.Size([2, 8, 8])
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        raise ValueError(f"unknown baseline {name!r}{hint}; there are: {', '.join(BASELINES)}")
    check_size("dim", dim)
    check_size("codebook_size", codebook_size)
    known = options_of(name)
    unknown = [option for option in options if option not in known]
    if unknown:
        shown = ", ".join(f"{key}={value!r}" for key, value in known.items()) or "none"
        raise ValueError(
            f"baseline {name!r} has no option {', '.join(map(repr, unknown))}; its options: {shown}"
        )
    try:
        built = BASELINES[name](dim, codebook_size, **options)
    except AssertionError as error:  # the package's way of refusing
        raise ValueError(f"baseline {name!r} cannot be built with {options}: {error}") from error
    chosen = vars(built).get("options", {})  # by the method itself, from K
    built.name, built.options = name, {**known, **options, **chosen}
    return built

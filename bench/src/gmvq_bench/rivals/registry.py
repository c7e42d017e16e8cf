"""The registry of rival quantizers: what each is, where it comes from, what it cannot do, what to tune."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gmvq.errors import check_size

from . import peers
from .base import BaselineQuantizer
from .continuous import GaussianVAE, Identity
from .cvq import ClusteredVQ
from .gumbel import GumbelVQ
from .ibq import IndexBackpropagationVQ
from .sq_vae import GaussianSQ


@dataclass(frozen=True)
class Baseline:
    """One method.

    Attributes:
        name: in ``BASELINES``.
        build: (dim, codebook_size, **options) -> an untrained quantizer.
        summary: one line.
        source: paper with arXiv number; the package, where the method is not written here.
        limits: what it cannot do under the contract; empty if nothing.
        weights: its own one or two numbers worth tuning, names of options; empty if it has none.
    """

    name: str
    build: Callable[..., BaselineQuantizer]
    summary: str
    source: str
    limits: str = ""
    weights: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Names of the options, with their defaults."""
        if isinstance(self.build, peers.Peer):
            return dict(self.build.defaults)
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


_PACKAGE = "vector-quantize-pytorch 1.32"
_EMA = "codebook moves inside training forward, not by the optimizer"
_REPLACE = f"{_EMA}; starts and replaces codes there, from the valid rows of the batch"
_LOCAL = "statistics of one process: several are not pooled"
_DENSE = f"holds N x K tensors; {_LOCAL}"
_COMMITMENT = ("commitment_weight",)

#: In the order of the tables.
BASELINES: dict[str, Baseline] = {
    b.name: b
    for b in (
        Baseline(
            "vq", peers.vq, "learnable codebook, straight-through: the classic VQ-VAE",
            f"van den Oord et al., arXiv 1711.00937; {_PACKAGE}",
            "one weight for both the codebook's and the encoder's term", _COMMITMENT,
        ),
        Baseline(
            "vq-ema", peers.vq_ema, "codebook of moving averages, straight-through",
            f"van den Oord et al., arXiv 1711.00937, appendix A.1; {_PACKAGE}", _EMA, _COMMITMENT,
        ),
        Baseline(
            "vq-ema-replace", peers.vq_ema_replace, "moving averages, k-means start, dead codes replaced",
            f"Zeghidour et al., arXiv 2107.03312; {_PACKAGE}", _REPLACE, _COMMITMENT,
        ),
        Baseline(
            "vq-cosine", peers.vq_cosine, "the same on the unit sphere",
            f"Yu et al., arXiv 2110.04627; {_PACKAGE}",
            f"codes have length one, whatever the latents; {_REPLACE}", _COMMITMENT,
        ),
        Baseline(
            "vq-rotation", peers.vq_rotation, "the same with the rotation trick for the encoder's gradient",
            f"Fifty et al., arXiv 2410.06424; {_PACKAGE}", _REPLACE, _COMMITMENT,
        ),
        Baseline(
            "vq-affine", peers.vq_affine, "learnable codebook moved with the latents' statistics, synchronous update",
            f"Huh et al., arXiv 2305.08842; {_PACKAGE}",
            "affine parameters are running statistics, not learned; statistics, start and replacement move inside "
            "training forward, and replacements are not mapped back through the affine parameters",
            ("commitment_weight", "sync_update_v"),
        ),
        Baseline(
            "diveq", peers.diveq, "code reached along a noisy direction at the exact distance",
            f"Vali et al., arXiv 2509.26469; {_PACKAGE}",
            "no commitment loss; start and replacement happen inside training forward",
            ("directional_reparam_variance",),
        ),
        Baseline(
            "simvq", peers.simvq, "frozen random codebook through a learned linear map",
            f"Zhu et al., arXiv 2411.02038; {_PACKAGE}", "", _COMMITMENT,
        ),
        Baseline(
            "fsq", peers.fsq, "rounding of a few bounded features",
            f"Mentzer et al., arXiv 2309.15505; {_PACKAGE}",
            "K a power of two from 4 on (levels of 8 and 4), or the product of given levels; no loss, no weight",
        ),
        Baseline(
            "lfq", peers.lfq, "signs of log2 K features with an entropy penalty",
            f"Yu et al., arXiv 2310.05737; {_PACKAGE}", "K a power of two; holds N x K tensors in training",
            ("entropy_loss_weight", "commitment_loss_weight"),
        ),
        Baseline(
            "sq-vae", GaussianSQ, "Gaussian stochastic quantization with a self-annealed variance",
            "Takida et al., arXiv 2205.07547", _DENSE,
        ),
        Baseline(
            "gumbel", GumbelVQ, "codes predicted as logits, Gumbel-softmax sample, embedding",
            "Jang et al., arXiv 1611.01144; Ramesh et al., arXiv 2102.12092",
            f"the code is not the nearest codeword; {_DENSE}", ("kl_weight",),
        ),
        Baseline(
            "cvq", ClusteredVQ, "little-used codes re-anchored to features of the batch",
            "Zheng and Vedaldi, arXiv 2307.15139",
            f"re-anchoring rewrites codewords inside training forward, and holds K x N tensors; {_LOCAL}",
            _COMMITMENT,
        ),
        Baseline(
            "ibq", IndexBackpropagationVQ, "straight-through on the one-hot of all K logits",
            "Shi et al., arXiv 2412.02692",
            f"the code is that of the largest dot product, not the nearest codeword; {_DENSE}",
            ("commitment_weight", "entropy_weight"),
        ),
        Baseline(
            "ae", Identity, "no quantization: the ceiling", "a plain autoencoder",
            "no codes: index 0 everywhere, nothing to decode from it",
        ),
        Baseline(
            "gaussian-vae", GaussianVAE, "diagonal Gaussian bottleneck, trained on the ELBO",
            "Kingma and Welling, arXiv 1312.6114", "no codes: index 0 everywhere, nothing to decode from it",
        ),
    )
}  # fmt: skip


def build_baseline(name: str, dim: int, codebook_size: int, **options: Any) -> BaselineQuantizer:
    """The untrained quantizer of a baseline.

    Args:
        name: of ``BASELINES``.
        dim: D.
        codebook_size: K.
        options: of the method, see ``BASELINES[name].options``.

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
    baseline = BASELINES[name]
    unknown = [option for option in options if option not in baseline.options]
    if unknown:
        known = ", ".join(f"{key}={value!r}" for key, value in baseline.options.items()) or "none"
        raise ValueError(
            f"baseline {name!r} has no option {', '.join(map(repr, unknown))}; its options: {known}"
        )
    try:
        return baseline.build(dim, codebook_size, **options)
    except AssertionError as error:  # the package's way of refusing
        raise ValueError(f"baseline {name!r} cannot be built with {options}: {error}") from error

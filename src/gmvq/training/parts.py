"""What a configuration names: the likelihoods by name, and the quantizer that several options describe together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..models.autoencoder import VQAutoencoder
from ..models.diffusers_networks import networks_from
from ..objectives import GaussianLikelihood, LaplaceLikelihood, Likelihood, LogitLaplaceLikelihood
from ..quantizers import (
    GaussianMixtureVQ,
    GroupedGMVQ,
    PyramidGMVQ,
    Quantizer,
    RaggedGMVQ,
    ResidualGMVQ,
)

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": GaussianLikelihood,
    "laplace": LaplaceLikelihood,
    "logit_laplace": LogitLaplaceLikelihood,
}


def build_quantizer(
    dim: int,
    codebook_size: int | Sequence[int],
    num_quantizers: int,
    groups: int,
    scales: int,
    ragged: bool,
    shared_codebook: bool,
    level_dropout: bool,
    min_levels: int,
    beam: int,
    **options: Any,
) -> Quantizer:
    """One mixture, a residual quantizer, a grouped one, whose groups may have levels, a pyramid or a ragged one."""
    sizes = [codebook_size] if isinstance(codebook_size, int) else list(codebook_size)
    if ragged and (scales == 1 or len(sizes) > 1):
        raise ValueError(
            f"ragged needs blocks, scales=2 or more, of one codebook_size; got {scales} and {codebook_size}"
        )
    if num_quantizers == scales == 1:
        num_quantizers = len(sizes)
    parts = {"num_quantizers": num_quantizers, "groups": groups, "scales": scales}
    several = [f"{name}={count}" for name, count in parts.items() if count != 1]
    if scales != 1 and len(several) > 1:
        raise ValueError(f"scales have no levels and no groups, got {' and '.join(several)}")
    if shared_codebook and (ragged or not several):
        raise ValueError(
            "shared_codebook needs several parts, num_quantizers, groups or scales of 2 or more, none of them ragged"
        )
    levels = {"level_dropout": level_dropout, "min_levels": min_levels, "beam": beam}
    _check_levels(num_quantizers, **levels)
    if ragged:
        return RaggedGMVQ(dim, sizes[0], scales, **options)
    if several:
        options["shared_codebook"] = shared_codebook
    if num_quantizers != 1:
        options |= {"num_quantizers": num_quantizers, **levels}
    size = sizes[0] if num_quantizers == scales == 1 else codebook_size
    if groups != 1:
        return GroupedGMVQ(dim, size, groups, **options)
    kind: Any = ResidualGMVQ if num_quantizers != 1 else GaussianMixtureVQ
    return kind(dim, size, **options) if scales == 1 else PyramidGMVQ(dim, size, scales, **options)


def _check_levels(num_quantizers: int, level_dropout: bool, min_levels: int, beam: int) -> None:
    if num_quantizers == 1 and (level_dropout or beam != 1):
        name = "level_dropout" if level_dropout else "beam"
        raise ValueError(f"{name} needs levels: num_quantizers=2 or more")
    if min_levels != 1 and not level_dropout:
        raise ValueError(f"min_levels={min_levels} needs level_dropout=True, of which it is the least")


def build_model(
    *,
    network: str | dict[str, Any],
    channels: int,
    downsample: int,
    spatial_dims: int,
    seed: int,
    **options: Any,
) -> VQAutoencoder:
    """Networks and quantizer with weights from ``seed``; arguments of other things are left aside."""
    names = inspect.signature(build_quantizer).parameters.keys() | set(
        inspect.signature(GaussianMixtureVQ).parameters
    ) - {"options"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = networks_from(
            network, channels=channels, dim=options["dim"], downsample=downsample, spatial_dims=spatial_dims
        )
        quantizer = build_quantizer(**{name: value for name, value in options.items() if name in names})
    return VQAutoencoder(encoder, quantizer, decoder)


def likelihood_of(notes: Mapping[str, Any]) -> Likelihood | None:
    """The likelihood that a model was trained with, for its bounds, from its notes; None where none was stored."""
    stored = notes.get("likelihood")
    if not isinstance(stored, dict) or stored.get("kind") not in LIKELIHOODS:
        return None
    likelihood = LIKELIHOODS[stored["kind"]](stored["scale"])
    with torch.no_grad():
        likelihood.log_scale.fill_(stored["log_scale"])
        likelihood.observations.fill_(stored["observations"])
    return likelihood

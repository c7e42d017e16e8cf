"""Layers in float64 with every choice spelled out, and a plain re-statement of the mixture to compare them with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gmvq import GaussianMixtureVQ, GumbelSoftmax, Objective, Precision, Variance
from gmvq.functional.schedules import Constant
from gmvq.types import QuantizerOutput

KINDS = ("albo", "elbo", "literal")
D, K = 3, 5


def latents(count: int = 12, dim: int = D, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.8 * torch.randn(count, dim, generator=generator, dtype=torch.float64).to(dtype)


def layer(
    dim: int = D,
    codebook_size: int = K,
    *,
    kind: Any = "albo",
    gamma: float = 0.7,
    beta: float = 1.3,
    commitment: float = 0.0,
    straight_through: bool = False,
    per_feature: bool = False,
    sharpening: float = 1.0,
    sigma: float = 1.2,
    sample_noise: float = 0.0,
    estimator: Any = GumbelSoftmax,
    temperature: float = 0.7,
    gumbel_noise: float = 0.0,
    support: int | None = None,
    started: bool = True,
    dtype: torch.dtype = torch.float64,
    **rest: Any,
) -> GaussianMixtureVQ:
    """A training layer on all codes, without noise, started on data and then moved off every optimum of the start."""
    torch.manual_seed(1)
    built = GaussianMixtureVQ(
        dim,
        codebook_size,
        objective=Objective(kind, Constant(gamma), Constant(beta), commitment),
        precision=Precision(per_feature, Constant(sharpening)),
        variance=Variance(sigma, Constant(sample_noise)),
        estimator=estimator(Constant(temperature), Constant(gumbel_noise)),
        support=support,
        **rest,
    ).to(dtype)
    built.straight_through = straight_through  # closed forms are of the model's own gradient
    if started:
        built.init_codebook(latents(64, dim, seed=9, dtype=dtype))
        move(built)
    return built


@torch.no_grad()
def move(built: GaussianMixtureVQ) -> None:
    """Change every trainable parameter a little, as training would."""
    for parameter in built.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


def total_loss(
    out: QuantizerOutput, target: Tensor, mask: Tensor | None = None, *, nats: bool = True
) -> Tensor:
    """Mean squared error over the valid positions plus the layer's own objective."""
    error = (out.quantized - target).square()
    error = error.mean() if mask is None else error[mask].mean()
    return error + (out.nats if nats else out.loss)


def run(
    built: GaussianMixtureVQ,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    nats: bool = True,
    autocast: torch.dtype | None = None,
) -> tuple[QuantizerOutput, dict[str, Tensor]]:
    """Forward, under autocast if asked for, and backward; gradients by name, that of the latents among them."""
    x = x.detach().clone().requires_grad_()
    built.zero_grad()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        out = built(x, mask)
    total_loss(out, torch.nan_to_num(x.detach()).sin(), mask, nats=nats).backward()
    grads = {name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None}
    return out, {**grads, "latents": x.grad}  # pyright: ignore[reportReturnType]


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


@dataclass(frozen=True)
class Mixture:
    """The layer's mixture written out over all N x K pairs, with torch.distributions for the Gaussians."""

    z: Tensor  # (N, D)
    q: Tensor  # (N, K), responsibilities
    weights: Tensor  # (N, K), the sample without noise
    distance: Tensor  # (N, K)
    prior: Tensor  # (K,)
    w: Tensor  # (D,)

    @staticmethod
    def of(built: GaussianMixtureVQ, x: Tensor) -> Mixture:
        z = (x - built.mean) / built.scale
        w = built.log_precision.exp().expand(built.dim)
        if built.mixture_weights == "learned":
            unnormalised = built.weight_logits.exp()
            prior = unnormalised / unnormalised.sum()
        else:
            prior = torch.full((built.codebook_size,), 1.0 / built.codebook_size, dtype=x.dtype)
        components = Normal(built.codebook, (w * built.sharpening).rsqrt())
        joint = prior * components.log_prob(z[:, None]).sum(-1).exp()
        q = joint / joint.sum(-1, keepdim=True)
        powered = q ** (1.0 / built.temperature)
        weights = powered / powered.sum(-1, keepdim=True)
        return Mixture(z, q, weights, (z[:, None] - built.codebook).square().sum(-1), prior, w)

    def code_variance(self, built: GaussianMixtureVQ) -> Tensor:
        """s_c^2(x), (N, K)."""
        return self.distance / (2 * built.variance.sigma**2 * built.dim)

    def gaussians(self, variance: Tensor) -> tuple[Normal, Normal]:
        """q(z|x, c) for variances (N,), and p(z|c), both centred: means do not matter."""
        own = Normal(torch.zeros_like(self.z), variance.sqrt()[:, None].expand_as(self.z))
        return own, Normal(torch.zeros_like(self.w), self.w.rsqrt())

    def latent(self, variance: Tensor, literal: bool) -> Tensor:
        """Mean over positions of the Gaussian KL or cross-entropy."""
        own, component = self.gaussians(variance)
        values = kl_divergence(own, component)
        return (values + own.entropy() if literal else values).sum(-1).mean()


def kl(p: Tensor, prior: Tensor) -> Tensor:
    """KL(p || prior) over the last axis by its definition."""
    return (p * (p / prior).log()).sum(-1)

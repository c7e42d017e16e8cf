"""The small tokenizer of the study of gradients, and the errors of estimators at one state of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmvq.functional.divergences import entropy_from_logits
from gmvq.functional.estimators import Estimator, GumbelSoftmax, ReinMax, StraightThroughGumbel
from gmvq.quantizers.gaussian_mixture import GaussianMixtureVQ
from gmvq.quantizers.parts import Objective

from .error import DecodeLoss, GradientError, estimator_error, exact_gradient

POSITIONS, DIM, CODES, SIZE = 2, 8, 16, 8
ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "gumbel-softmax": GumbelSoftmax,
    "straight-through": StraightThroughGumbel,
    "reinmax": ReinMax,
}


class GradientTokenizer(nn.Module):
    """The network of the study; images (B, 3, 8, 8)."""

    def __init__(self, objective: Objective, support: int | None, hidden: int = 64) -> None:
        super().__init__()
        pixels = 3 * SIZE * SIZE
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden), nn.SiLU(), nn.Linear(hidden, POSITIONS * DIM)
        )
        self.quantizer = GaussianMixtureVQ(DIM, CODES, objective=objective, support=support, start_after=0)
        self.decoder = nn.Sequential(nn.Linear(POSITIONS * DIM, hidden), nn.SiLU(), nn.Linear(hidden, pixels))

    def encode(self, images: Tensor) -> Tensor:
        """Latents, (B, P, D)."""
        return self.encoder(images).unflatten(-1, (POSITIONS, DIM))

    def decode(self, quantized: Tensor) -> Tensor:
        """Images (..., 3 * 8 * 8), flat, from (..., P, D)."""
        return self.decoder(quantized.flatten(-2))


def measure(
    model: GradientTokenizer,
    images: Tensor,
    cells: Sequence[tuple[str, float]],
    samples: int,
    seed: int,
    *,
    support: int | None = None,
    against_all_codes: bool = False,
    of_logits: bool = False,
) -> tuple[Tensor, dict[tuple[str, float], dict[str, Any]]]:
    """The errors of estimators at one state of a model.

    Args:
        model: it stays as it is; a float64 copy is measured.
        images: (B, 3, 8, 8).
        cells: pairs of a name in ``ESTIMATORS`` and a temperature.
        samples, seed: of ``estimator_error``; every cell has the same noise.
        support: k of the posterior, None for all codes.
        against_all_codes: compare with the exact gradient of the posterior on all codes.
        of_logits: measure gradients with respect to the logits, not to the encoder's parameters.

    Returns:
        H(q(c|x)) in nats per image, mean over positions, (B,), and for each cell the figures per image, (B,), of
        ``_per_image`` and, unless ``of_logits``, those of ``_of_the_batch``.
    """
    model = copy.deepcopy(model).double()
    images, quantizer = images.double(), model.quantizer
    encoded = model.encode(images)
    all_logits = quantizer.posterior_logits(encoded.detach()).detach()
    codebook = quantizer.codebook.detach()
    k = min(support or CODES, CODES)
    logits, index = all_logits.topk(CODES if against_all_codes else k, dim=-1)
    slope = codebook[index] * (
        quantizer.log_precision.detach().exp() * quantizer.sharpening / quantizer.scale
    )
    kernel = None if of_logits else _kernel(model, images)
    metric = None if kernel is None else torch.einsum("bpkd,bpdqe,bqje->bpkqj", slope, kernel, slope)
    codes, loss = codebook[index], _decode_loss(model, images, all_logits)
    exact = exact_gradient(logits, codes, loss)[1] if against_all_codes else None
    logits[..., k:] = -1e4
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for cell in cells:
        chance = torch.Generator().manual_seed(seed)
        of_cell = (logits, codes, loss, ESTIMATORS[cell[0]](), cell[1], samples, chance)
        error = estimator_error(*of_cell, metric=metric, exact=exact)
        batch = {} if metric is None else _of_the_batch(error, model, encoded, slope)
        found[cell] = {**_per_image(error), **batch}
    return entropy_from_logits(logits).mean(-1), found


def _per_image(error: GradientError) -> dict[str, Tensor]:
    squares = {"error": error.error.clamp_min(0.0), "bias": error.bias.clamp_min(0.0)}
    relative = {f"relative {name}": error.relative(square).sqrt() for name, square in squares.items()}
    absolute = {f"absolute {name}": square.sqrt() for name, square in squares.items()}
    return {**relative, **absolute, "1 - cosine": 1.0 - error.cosine, "norm": error.exact_norm}


def _of_the_batch(
    error: GradientError, model: GradientTokenizer, encoded: Tensor, slope: Tensor
) -> dict[str, float]:
    """The same for the gradient of the batch, sum_b J_b^T g_b, with one sample per image: what an optimizer sees."""

    def summed(gradient: Tensor) -> Tensor:
        along = torch.einsum("bpk,bpkd->bpd", gradient, slope)
        parts = torch.autograd.grad(encoded, list(model.encoder.parameters()), along, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    exact, difference = summed(error.exact), summed(error.difference)
    size = exact.square().sum()
    bias = (difference.square().sum() - error.monte_carlo.sum()).clamp_min(0.0)
    return {
        "batch bias": float((bias / size).sqrt()),
        "batch error": float(((bias + error.variance.sum()) / size).sqrt()),
        "batch cosine": float(torch.cosine_similarity(exact + difference, exact, dim=0)),
    }


def _decode_loss(model: GradientTokenizer, images: Tensor, logits: Tensor) -> DecodeLoss:
    """-log p(x|z) in nats up to a constant, s_x^2 the mean squared error of these images at the most probable codes."""
    flat = images.flatten(1)
    codewords = model.quantizer.codebook[logits.argmax(-1)]
    variance = (model.decode(codewords) - flat).square().mean().detach()
    return lambda z: (model.decode(z) - flat).square().sum(-1) / (2 * variance)


def _kernel(model: GradientTokenizer, images: Tensor) -> Tensor:
    r"""J J^T, (B, P, D, P, D), J the Jacobian of an image's latents with respect to the encoder's parameters.

    Of a linear layer h -> a it is (\|h\|^2 + 1) A A^T with A the Jacobian with respect to a; layers add up.
    """
    value, inputs, outputs = images, [], []
    for layer in model.encoder:
        linear = isinstance(layer, nn.Linear)
        inputs += [value.detach()] if linear else []
        value = layer(value)
        outputs += [value] if linear else []
    rows = [torch.autograd.grad(latent, outputs, retain_graph=True) for latent in value.sum(0)]
    kernel = torch.zeros(())
    for number, h in enumerate(inputs):
        slope = torch.stack([row[number] for row in rows], 1)
        kernel = kernel + (h.square().sum(-1) + 1.0)[:, None, None] * (slope @ slope.mT)
    return kernel.unflatten(2, (POSITIONS, DIM)).unflatten(1, (POSITIONS, DIM))

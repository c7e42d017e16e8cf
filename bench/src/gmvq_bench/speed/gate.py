"""Before anything is timed: every contestant of ours against its definition, outputs and every gradient.

The reference runs in float64 too. A tensor passes if its largest deviation from float64 is at most ``TOLERANCE`` of
its largest value, or a few times what float32 costs the reference itself; with noise on the sample, which float64
draws otherwise, the comparison is with the reference in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from gmvq.functional.sampling import Support, dispatch
from gmvq.functional.sampling.reference import mixture_sample_reference
from gmvq.quantizers import GaussianMixtureVQ, gaussian_mixture

from .contestants import CONTESTANTS, Case

TOLERANCE = 1e-5
#: Allowed multiple of the reference's own float32 error.
_SLACK = 4.0
#: (N, K, D): odd sizes, blocks that do not divide, a codebook of more than one tile of the search.
SIZES = ((517, 1003, 64), (300, 67, 8), (131, 9001, 16))
#: Rows whose k-th and (k + 1)-th logit differ by less are left out: which code wins is then a matter of rounding.
_CLEAR = 1e-3
#: Factor on the latents: at the scale and precision that fit them, two gradients are zero but for rounding.
_AWAY = 1.3


def check_all(device: torch.device, sizes: Iterable[tuple[int, int, int]] = SIZES) -> list[dict[str, Any]]:
    """The worst tensor of each contestant of ours at each size, and whether it passed."""
    cases = [Case("train", n, k, d, device=device) for n, k, d in sizes]
    ours = {name: contestant for name, contestant in CONTESTANTS.items() if contestant.ours}
    return [
        {"contestant": name, **_check(contestant.build(case), case)}
        for name, contestant in ours.items()
        for case in cases
    ]


def _check(layer: GaussianMixtureVQ, case: Case) -> dict[str, Any]:
    exact = copy.deepcopy(layer).double()
    latents = _clear_rows(exact, case)
    with (
        patch(f"{gaussian_mixture.__name__}.find_support", _every_logit),
        patch(f"{dispatch.__name__}.mixture_sample_truncated", mixture_sample_reference),
    ):
        plain, noisy = (_run(layer, latents, noise) for noise in (False, True))
        truth = _run(exact, latents.double(), False)
    truth["encode"] = truth["indices"]
    allowed = {key: max(TOLERANCE, _SLACK * deviation(plain[key], truth[key])) for key in truth}
    pairs = (_run(layer, latents, False), truth), (_run(layer, latents, True), noisy)
    errors = {key: max(deviation(got[key], expected[key]) for got, expected in pairs) for key in truth}
    worst = max(errors, key=lambda key: errors[key] / allowed[key])
    return {
        "size": f"N={len(latents)} K={case.k} D={case.d}",
        "worst": worst,
        "error": errors[worst],
        "allowed": allowed[worst],
        "passed": all(errors[key] <= allowed[key] for key in errors),
    }


def _every_logit(query: Tensor, codebook: Tensor, bias: Tensor, k: int | None) -> Support:
    """``find_support`` as it is defined."""
    logits = torch.addmm(bias, query, codebook.T).detach()
    return Support(*logits.topk(k or 0, -1), logits.argmax(-1))


def _clear_rows(exact: GaussianMixtureVQ, case: Case) -> Tensor:
    """Up to N latents whose most probable codes, and whose support, do not hang on the last bits."""
    latents = _AWAY * case.latents(seed=3, rows=2 * case.n).float()
    k = 1 if exact.support is None else min(exact.support, case.k - 1)
    logits = exact.posterior_logits(latents.double()).detach().topk(k + 1, -1).values
    gaps = (logits[:, :-1] - logits[:, 1:])[:, [0, k - 1]]
    return latents[(gaps > _CLEAR).all(-1)][: case.n]


def _run(layer: GaussianMixtureVQ, latents: Tensor, sample_noise: bool) -> dict[str, Tensor]:
    """The eval output, the search, and every output and gradient of a training step, always with the same noise."""
    layer = copy.deepcopy(layer).eval()
    with torch.no_grad():
        plain, encoded = layer(latents), layer.encode(latents)
    layer.train()
    if not sample_noise:
        layer.sample_noise.zero_()
    latents = latents.detach().requires_grad_()
    torch.manual_seed(5)
    out = layer(latents)
    parameters = {"latents": latents, **{n: p for n, p in layer.named_parameters() if p.requires_grad}}
    # Well conditioned, as in training.
    loss = (out.quantized - 0.9 * latents.detach()).square().mean() + out.loss
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    layer.settle()
    return {
        **{
            name: getattr(out, name).detach()
            for name in ("quantized", "indices", "loss", "nats", "log_variance")
        },
        **{f"terms.{name}": value for name, value in out.terms.items()},
        **{f"grad {name}": value for name, value in zip(parameters, gradients, strict=True)},
        **{f"eval {name}": getattr(plain, name) for name in ("quantized", "indices", "loss")},
        "encode": encoded,
        "learned codebook": layer.codebook.detach(),
    }


def deviation(got: Tensor, expected: Tensor) -> float:
    """max |got - expected| / max |expected|, for scalars / max(|expected|, 1); indices count if they differ at all."""
    if got.shape != expected.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    if not expected.is_floating_point():
        return float("inf") if bool((got != expected).any()) else 0.0
    difference = float((got.double() - expected.double()).abs().max())
    scale = max(float(expected.double().abs().max()), float(expected.ndim == 0))
    return difference / scale if scale > 0 else difference

"""Before anything is timed: every contestant of ours against the dense reference, outputs and every gradient.

The reference runs in float64 too. A tensor passes if its largest deviation from float64 is at most ``TOLERANCE`` of
its largest value, or a few times what float32 costs the reference itself; with noise on the sample, which float64
draws otherwise, the comparison is with the reference in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gmvq.quantizers import GaussianMixtureVQ

from .contestants import CONTESTANTS, Case, Contestant, NotPossibleError

TOLERANCE = 1e-5
#: Allowed multiple of the reference's own float32 error.
_SLACK = 4.0
#: (N, K, D): odd sizes, blocks that do not divide, a codebook of more than one tile of the search.
SIZES = ((517, 1003, 64), (300, 67, 8), (131, 9001, 16))
#: Rows whose k-th and (k + 1)-th logit differ by less are left out: which code wins is then a matter of rounding.
_CLEAR = 1e-3
#: Factor on the latents: at the scale and precision that fit them, two gradients are zero but for rounding.
_AWAY = 1.3

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """The worst tensor of one contestant at one size."""

    contestant: str
    size: str
    backend: str
    worst: str
    """Name of the tensor with the largest deviation for what it is allowed."""
    error: float
    """Deviation of that tensor, relative to its largest value."""
    allowed: float
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_all(
    device: torch.device,
    names: Iterable[str] | None = None,
    sizes: Iterable[tuple[int, int, int]] = SIZES,
    build: Callable[[Contestant, Case], GaussianMixtureVQ] = lambda contestant, case: contestant.build(case),
) -> list[Check]:
    """Check the contestants of ours (``names``, default all) at every size; those that cannot run are left out."""
    checks = []
    for name in CONTESTANTS if names is None else names:
        contestant = CONTESTANTS[name]
        if not contestant.ours:
            continue
        for n, k, d in sizes:
            case = Case("train", n, k, d, device=device)
            try:
                layer = build(contestant, case)
            except NotPossibleError:
                break
            checks.append(_check(name, layer, case))
    return checks


def _check(name: str, layer: GaussianMixtureVQ, case: Case) -> Check:
    reference = GaussianMixtureVQ.from_config({**layer.to_config(), "backend": "reference"}).to(case.device)
    exact = GaussianMixtureVQ.from_config({**layer.to_config(), "backend": "reference"}).to(case.device)
    for other in (reference, exact):
        other.load_state_dict(layer.state_dict())
    exact.double()
    latents = clear_rows(exact, case)
    backend = layer.chosen_backend(latents).name
    plain, truth = run(reference, latents, False), run(exact, latents.double(), False)
    budget = {key: max(TOLERANCE, _SLACK * deviation(plain[key], truth[key])) for key in truth}
    errors: dict[str, float] = {}
    for sample_noise, expected in ((False, truth), (True, run(reference, latents, True))):
        got = run(layer, latents, sample_noise)
        for key, value in expected.items():
            errors[key] = max(errors.get(key, 0.0), deviation(got[key], value))
    worst = max(errors, key=lambda key: errors[key] / budget[key])
    size = f"N={len(latents)} K={case.k} D={case.d}"
    passed = all(errors[key] <= budget[key] for key in errors)
    return Check(name, size, backend, worst, errors[worst], budget[worst], passed)


def clear_rows(exact: GaussianMixtureVQ, case: Case) -> Tensor:
    """Up to N latents whose most probable codes, and whose support, do not hang on the last bits."""
    latents = _AWAY * case.latents(seed=3, rows=2 * case.n).float()
    k = 1 if exact.support is None else min(exact.support, case.k - 1)
    logits = exact.posterior_logits(latents.double()).detach().topk(k + 1, -1).values
    gaps = (logits[:, :-1] - logits[:, 1:])[:, [0, k - 1]]
    return latents[(gaps > _CLEAR).all(-1)][: case.n]


def run(layer: GaussianMixtureVQ, latents: Tensor, sample_noise: bool) -> Tensors:
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
    loss = (
        out.quantized - 0.9 * latents.detach()
    ).square().mean() + out.loss  # well conditioned, as in training
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    layer.settle()
    return {
        "quantized": out.quantized.detach(),
        "indices": out.indices,
        "loss": out.loss.detach(),
        "nats": out.nats.detach(),
        "log_variance": out.log_variance,
        **{f"terms.{name}": value for name, value in out.terms.items()},
        **{f"grad {name}": value for name, value in zip(parameters, gradients, strict=True)},
        "eval quantized": plain.quantized,
        "eval indices": plain.indices,
        "eval loss": plain.loss,
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
    scale = float(expected.double().abs().max())
    if expected.ndim == 0:
        scale = max(scale, 1.0)
    return difference / scale if scale > 0 else difference

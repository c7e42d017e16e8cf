"""Every parameter learns, whatever is chosen, and every term enters with its own weight and sign."""

from __future__ import annotations

import itertools

import pytest
import torch
from quantizer_cases import GAIN, KINDS, VARIANCES, Mixture, assert_same, kl, latents, layer, run, total_loss

from gmvq import GumbelSoftmax, ReinMax, StraightThroughGumbel

ESTIMATORS = (GumbelSoftmax, StraightThroughGumbel, ReinMax)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_and_the_latents_get_a_gradient(kind, variance, estimator) -> None:
    noise = {"gumbel_noise": 1.0, "sample_noise": 1.0, "temperature": 1.0}
    for fit, weights in itertools.product(("ml", "learned", "fixed"), ("uniform", "learned")):
        built = layer(
            kind=kind,
            variance=variance,
            estimator=estimator,
            fit=fit,
            per_feature=weights == "learned",
            mixture_weights=weights,
            **noise,
        )
        _, grads = run(built, latents(), nats=fit == "ml")
        trainable = {name for name, p in built.named_parameters() if p.requires_grad}
        assert set(grads) == trainable | {"latents"}, (fit, weights)
        for name, grad in grads.items():
            assert torch.isfinite(grad).all(), (name, fit, weights)
            assert grad.abs().max() > 0, (name, fit, weights)
        assert (grads["scaled_codebook"].abs().sum(-1) > 0).all(), "every code"


@pytest.mark.parametrize("fit", ["ml", "fixed"])
def test_precision_without_the_objective_gradient_keeps_out_of_it(fit) -> None:
    """w has no gradient from the objective; thawing a frozen layer does not turn a fixed w into a trained one."""
    built, x = layer(fit=fit, standardize=False), latents()
    built.requires_grad_(False).requires_grad_(True)
    _, grads = run(built, x)
    _, heavy = run(layer(fit=fit, standardize=False, gamma=70.0, beta=130.0), x)
    if fit == "fixed":
        assert "scaled_log_precision" not in grads
    else:
        torch.testing.assert_close(heavy["scaled_log_precision"], grads["scaled_log_precision"])
    assert "scaled_log_scale" not in grads, "a fixed scale of one is not trained"


@pytest.mark.parametrize("per_feature", [False, True])
def test_own_gradients_of_scale_and_precision_have_the_likelihood_roots(per_feature) -> None:
    """s^2 at the mean squared deviation of the latents and 1/w at the mean squared error to the nearest code."""
    built, x = layer(fit="ml", per_feature=per_feature), latents(50)
    _, off = run(built, x)
    mixture = Mixture.of(built, x)
    error = (mixture.z - built.codebook[built.eval()(x).indices]).square()
    if not per_feature:
        error = error.mean(-1, keepdim=True)
    spread = (x - x.mean(0)).square().mean().sqrt()
    s, w = built.log_scale.exp(), built.log_precision.exp()
    torch.testing.assert_close(off["scaled_log_scale"], GAIN * (1 - spread**2 / s**2).detach())
    torch.testing.assert_close(off["scaled_log_precision"], 0.5 * GAIN * (w * error.mean(0) - 1).detach())
    if per_feature:
        return  # another w per feature moves positions to other codes: the root is that of an iteration
    with torch.no_grad():  # the same mixture in other units, then w at its root: no position changes its code
        built.scaled_codebook.mul_(s / spread)
        built.scaled_log_scale.fill_(spread.log() / GAIN)
        built.scaled_log_precision.copy_(-(error.mean(0) * (s / spread).square()).log() / GAIN)
    _, root = run(built.train(), x)
    for name in ("scaled_log_scale", "scaled_log_precision"):
        torch.testing.assert_close(root[name], torch.zeros(1, dtype=torch.float64), atol=1e-9, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_gamma_and_beta_weigh_their_terms_and_nothing_else(kind) -> None:
    x = latents()

    def at(gamma: float, beta: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        out, grads = run(layer(kind=kind, gamma=gamma, beta=beta), x)
        return out.nats.detach(), grads

    (none, g_none), (latent, g_latent), (both, g_both) = at(0.0, 0.0), at(1.0, 0.0), at(3.0, 5.0)
    beta_only, g_beta = at(0.0, 1.0)
    torch.testing.assert_close(none, torch.zeros_like(none))
    torch.testing.assert_close(both, 3 * latent + 5 * beta_only)
    combined = {
        name: base + 3 * (g_latent[name] - base) + 5 * (g_beta[name] - base) for name, base in g_none.items()
    }
    assert_same(g_both, combined)
    assert (beta_only == 0) == (kind == "none")


@pytest.mark.parametrize(
    ("kind", "gamma", "beta"), [("albo", 0.0, 1.0), ("elbo", 0.0, 1.0), ("albo", 1.0, 0.0)]
)
def test_gradients_are_those_of_the_written_out_objective(kind, gamma, beta) -> None:
    """Signs included: codebook, weights, precision, variance and latents against autograd on the plain formula."""
    built = layer(
        kind=kind, gamma=gamma, beta=beta, variance="learned", mixture_weights="learned", standardize=False
    )
    x = latents().requires_grad_()
    names = ["scaled_codebook", "scaled_weight_logits", "scaled_log_precision"] + ["scaled_log_variance"] * (
        gamma > 0
    )
    inputs = [x, *(built.get_parameter(name) for name in names)]
    ours = torch.autograd.grad(built(x).nats, inputs)
    mixture = Mixture.of(built, x)
    mixed = (mixture.weights * mixture.code_variance(built)).sum(-1)
    q = mixture.q
    divergence = kl(q.mean(0), mixture.prior) if kind == "albo" else kl(q, mixture.prior).mean()
    written = gamma * mixture.latent(mixed, literal=False) + beta * divergence
    for name, a, b in zip(["latents", *names], ours, torch.autograd.grad(written, inputs), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["albo", "elbo"])
def test_descent_on_the_layer_alone_lowers_its_term(kind) -> None:
    built, x = layer(kind=kind, gamma=0.0, beta=1.0), latents(40)
    name = {"albo": "kl_aggregate", "elbo": "kl_conditional"}[kind]
    before = built(x)
    before.nats.backward()
    with torch.no_grad():
        built.scaled_codebook.sub_(0.05 / GAIN**2 * built.scaled_codebook.grad)  # pyright: ignore[reportOperatorIssue]
    assert built(x).terms[name] < before.terms[name]


def test_a_reconstruction_loss_reaches_the_encoder_through_the_sample() -> None:
    built, x = layer(gamma=0.0, beta=0.0), latents().requires_grad_()
    out = built(x)
    total_loss(out, torch.zeros_like(x)).backward()
    expected_x = latents().requires_grad_()
    mixture = Mixture.of(built, expected_x)
    sample = built.log_scale.exp().detach() * (mixture.weights @ built.codebook)
    sample.square().mean().backward()
    torch.testing.assert_close(x.grad, expected_x.grad)

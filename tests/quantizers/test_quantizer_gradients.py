"""Every parameter learns, whatever is chosen, and every term enters with its own weight and sign."""

from __future__ import annotations

import itertools

import pytest
import torch
from quantizer_cases import KINDS, Mixture, assert_same, kl, latents, layer, run, total_loss

from gmvq import GumbelSoftmax, StraightThroughGumbel
from gmvq.functional.balance import balance_gradients
from gmvq.quantizers.learning import MEMORY
from gmvq.quantizers.start import RATE

ESTIMATORS = (GumbelSoftmax, StraightThroughGumbel)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_and_the_latents_get_a_gradient(kind, estimator) -> None:
    noise = {"gumbel_noise": 1.0, "sample_noise": 1.0, "temperature": 1.0}
    for nats, weights in itertools.product((True, False), ("uniform", "learned")):
        per_feature = weights == "learned"
        built = layer(
            kind=kind, estimator=estimator, per_feature=per_feature, mixture_weights=weights, **noise
        )
        _, grads = run(built, latents(), nats=nats)
        trainable = {name for name, p in built.named_parameters() if p.requires_grad}
        assert set(grads) == trainable | {"latents"}, (nats, weights)
        for name, grad in grads.items():
            assert torch.isfinite(grad).all(), (name, nats, weights)
            assert grad.abs().max() > 0, (name, nats, weights)
        assert (grads["codebook"].abs().sum(-1) > 0).all(), "every code"


def test_what_the_m_step_fits_has_no_gradient() -> None:
    """Neither precision, mean nor scale."""
    _, grads = run(layer(), latents())
    assert not {"log_precision", "mean", "scale"} & set(grads)


@pytest.mark.parametrize("per_feature", [False, True])
def test_the_m_step_is_its_closed_form(per_feature) -> None:
    """After a batch: codewords and 1/w by the formulas of ``learning``, written out; the coordinates stand still."""
    built, x = layer(per_feature=per_feature), latents(50)
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    indices, z = built(x).indices, Mixture.of(built, x).z.detach()
    for name, p in built.named_parameters():
        assert torch.equal(p, before[name]), "the lesson waits for the next batch"
    built.settle()
    counts = torch.bincount(indices, minlength=5).double()
    sums = torch.zeros_like(before["codebook"]).index_add(0, indices, z)
    past = MEMORY * len(x) / 5
    expected = (past * before["codebook"] + sums) / (past + counts)[:, None]
    torch.testing.assert_close(built.codebook.detach(), expected)
    error = (z - before["codebook"][indices]).square().mean(0)
    error = error if per_feature else error.mean(0, keepdim=True)
    variance = (1 - RATE) * (-before["log_precision"]).exp() + RATE * error
    torch.testing.assert_close((-built.log_precision).exp(), variance)
    assert torch.equal(built.mean, before["mean"])
    assert torch.equal(built.scale, before["scale"])


def test_births_move_the_dead_codes_to_latents_and_no_other() -> None:
    built, x = layer(), latents(50)
    built.eval()
    used = built.train().encode(x)
    with torch.no_grad():
        built.share.fill_(1.0)
        dead = torch.tensor([0, 3])
        built.share[dead] = 0.0
        built.codebook[dead] = 1e3
    z = built.standardized(x).detach()
    built(x)
    built.settle()
    distance = torch.cdist(built.codebook.detach(), z).amin(1)
    torch.testing.assert_close(distance[dead], torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(built.share[dead], torch.full((2,), 0.2, dtype=torch.float64))
    assert used.max() < 5
    living = torch.tensor([1, 2, 4])
    assert (distance[living] > 1e-4).all()


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
    assert beta_only != 0


@pytest.mark.parametrize(
    ("kind", "gamma", "beta"), [("albo", 0.0, 1.0), ("elbo", 0.0, 1.0), ("albo", 1.0, 0.0)]
)
def test_gradients_are_those_of_the_written_out_objective(kind, gamma, beta) -> None:
    """Signs included: codebook, weights and latents against autograd on the plain formula."""
    built = layer(kind=kind, gamma=gamma, beta=beta, mixture_weights="learned", standardize=False)
    x = latents().requires_grad_()
    names = ["codebook", "weight_logits"]
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
        built.codebook.sub_(0.05 * built.codebook.grad)  # pyright: ignore[reportOperatorIssue]
    built._pending = None  # the M-step is another step
    assert built(x).terms[name] < before.terms[name]


def test_a_reconstruction_loss_reaches_the_encoder_through_the_sample() -> None:
    built, x = layer(gamma=0.0, beta=0.0), latents().requires_grad_()
    out = built(x)
    total_loss(out, torch.zeros_like(x)).backward()
    expected_x = latents().requires_grad_()
    mixture = Mixture.of(built, expected_x)
    sample = built.unstandardized(mixture.weights @ built.codebook)
    sample.square().mean().backward()
    torch.testing.assert_close(x.grad, expected_x.grad)


def test_the_straight_through_gradient_comes_on_top() -> None:
    """That of the quantized latents, less what ``balance_gradients`` takes of it."""
    gradients = []
    for straight_through in (False, True):
        built, x = layer(gamma=0.0, beta=0.0), latents().requires_grad_()
        built.straight_through = straight_through
        built(x).quantized.sin().sum().backward()
        gradients.append(x.grad)
    quantized, carrier = layer(gamma=0.0, beta=0.0)(latents()).quantized.detach(), latents().requires_grad_()
    through, _ = balance_gradients(quantized, quantized.new_zeros(()), carrier, straight_through=True)
    through.backward(quantized.cos())
    assert carrier.grad is not None
    assert (carrier.grad != quantized.cos()).any()
    torch.testing.assert_close(gradients[1], gradients[0] + carrier.grad)


def test_the_commitment_pulls_latents_to_their_codes_and_leaves_the_objective_as_it_is() -> None:
    """Where the loss is quadratic around the latents, which the straight-through gradient alone leaves there."""
    pulls, losses = [], []
    for commitment in (0.0, 0.25):
        options = {"straight_through": True, "commitment": commitment}
        built, x = layer(gamma=0.0, beta=0.0, **options), latents().requires_grad_()
        out = built(x)
        ((out.quantized - x.detach()).square().sum() + out.loss).backward()
        pulls.append(x.grad)
        losses.append(out.nats.detach())
    error = built.train()(latents()).quantized.detach() - latents()
    cosine = torch.nn.functional.cosine_similarity(pulls[0] - pulls[1], error, dim=-1)
    assert (cosine > 0.9).all()
    torch.testing.assert_close(losses[0], losses[1])

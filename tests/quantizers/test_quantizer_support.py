"""The truncated posterior and the implementations inside the whole layer: same results, every contract kept."""

from __future__ import annotations

import json

import pytest
import torch
from quantizer_cases import KINDS, assert_same, latents, layer, run, total_loss
from torch.utils.checkpoint import checkpoint
from watch import largest_allocation

from gmvq import GaussianMixtureVQ, GumbelSoftmax, StraightThroughGumbel
from gmvq.functional.sampling.reference import mixture_sample_reference
from gmvq.quantizers import from_config, rows
from gmvq.types import QuantizerOutput

ESTIMATORS = (GumbelSoftmax, StraightThroughGumbel)
CODES = 20
NOISE = {"gumbel_noise": 1.0, "sample_noise": 1.0}
MASK = torch.arange(30) % 3 > 0


def built(**choice) -> GaussianMixtureVQ:
    return layer(**{"codebook_size": CODES, "support": None, **NOISE, **choice})


def seeded(quantizer: GaussianMixtureVQ, mask=MASK) -> tuple[QuantizerOutput, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    return run(quantizer, latents(30), mask)


def assert_equal_runs(ours, expected) -> None:
    for name in ("quantized", "nats", "log_variance"):
        torch.testing.assert_close(getattr(ours[0], name), getattr(expected[0], name))
    assert torch.equal(ours[0].indices, expected[0].indices)
    assert_same(ours[0].terms, expected[0].terms)
    assert_same(ours[1], expected[1])


@pytest.mark.parametrize("support", [None, 2, 6])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_block_of_rows_does_not_matter(monkeypatch, support, estimator) -> None:
    """Blocks that do not divide the rows, a precision per feature and learned weights; and the definition."""
    choice = {
        "estimator": estimator, "support": support, "per_feature": True, "mixture_weights": "learned"
    }  # fmt: skip
    ours = seeded(built(**choice))
    monkeypatch.setattr(rows, "block_rows", lambda *_: 7)
    assert_equal_runs(seeded(built(**choice)), ours)
    monkeypatch.setattr(
        "gmvq.functional.sampling.dispatch.mixture_sample_truncated", mixture_sample_reference
    )
    assert_equal_runs(seeded(built(**choice)), ours)


@pytest.mark.parametrize("kind", KINDS)
def test_support_of_every_code_is_the_dense_layer(kind) -> None:
    expected = seeded(built(kind=kind))
    assert_equal_runs(seeded(built(kind=kind, support=CODES)), expected)
    assert_equal_runs(seeded(built(kind=kind, support=CODES + 5)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind) -> None:
    quantizer = built(kind=kind, support=3, mixture_weights="learned")
    _, grads = seeded(quantizer, None)
    assert set(grads) == {n for n, p in quantizer.named_parameters() if p.requires_grad} | {"latents"}
    for name, grad in grads.items():
        assert torch.isfinite(grad).all(), name
        assert grad.abs().max() > 0, name


def test_terms_of_the_truncated_posterior_by_enumeration() -> None:
    """Each term is that of a categorical with probability 0 outside the k most probable codes."""
    x, k = latents(30), 4
    quantizer = built(support=k, beta=1.0, gamma=0.0)
    logits = quantizer.posterior_logits(x)
    outside = torch.ones_like(logits, dtype=torch.bool).scatter(1, logits.topk(k, -1).indices, False)
    q = logits.masked_fill(outside, -torch.inf).softmax(-1)
    terms = quantizer(x).terms
    conditional = torch.distributions.Categorical(probs=q).entropy().mean()
    torch.testing.assert_close(terms["conditional_entropy"], conditional)
    aggregate = q.mean(0)
    kl = torch.xlogy(aggregate, aggregate * CODES).sum()
    torch.testing.assert_close(terms["kl_aggregate"], kl)
    torch.testing.assert_close(terms["kl_conditional"], torch.tensor(CODES).log().double() - conditional)
    dense = built(beta=1.0, gamma=0.0)(x).terms
    assert terms["conditional_entropy"] < dense["conditional_entropy"]
    for name in ("perplexity", "usage", "precision", "scale"):
        torch.testing.assert_close(terms[name], dense[name])


@pytest.mark.parametrize("k", [2, 4])
def test_information_of_a_truncated_code_has_a_floor(k) -> None:
    """H(q(c|x)) <= log k, so I_q >= log(K / k) - KL(qbar || pi): a used codebook must carry information."""
    terms = built(support=k, sharpening=1e-3)(latents(200)).terms
    floor = torch.tensor(CODES / k).log() - terms["kl_aggregate"]
    information = terms["aggregate_entropy"] - terms["conditional_entropy"]
    assert terms["conditional_entropy"] <= torch.tensor(float(k)).log() + 1e-9
    assert information >= floor - 1e-9
    torch.testing.assert_close(
        information, floor.double(), rtol=0.05, atol=0.01
    )  # soft posteriors: the floor is met


@pytest.mark.parametrize("support", [None, 2, 6])
def test_eval_is_the_nearest_code_whatever_the_support(support) -> None:
    x = latents(40)
    quantizer = built(support=support).eval()
    out = quantizer(x)
    assert torch.equal(out.indices, built().eval()(x).indices)
    assert torch.equal(out.indices, quantizer.encode(x))
    torch.testing.assert_close(quantizer.get_codes_from_indices(out.indices), out.quantized, rtol=0, atol=0)
    torch.testing.assert_close(out.log_variance, built().eval()(x).log_variance)


def test_masked_positions_are_as_good_as_dropped() -> None:
    x = latents(30)
    dropped, expected = run(layer(codebook_size=CODES, support=5), x[MASK])
    out, grads = run(layer(codebook_size=CODES, support=5), torch.where(MASK[:, None], x, torch.nan), MASK)
    torch.testing.assert_close(out.nats, dropped.nats)
    assert_same(out.terms, dropped.terms)
    torch.testing.assert_close(out.quantized[MASK], dropped.quantized)
    grads["latents"] = grads["latents"][MASK]
    assert_same(grads, expected)


@pytest.mark.parametrize("support", [None, 6])
def test_activation_checkpointing_changes_no_gradient(support) -> None:
    x, gradients = latents(30), []
    for recompute in (False, True):
        quantizer, inputs = built(support=support), x.clone().requires_grad_()
        torch.manual_seed(7)
        out = checkpoint(quantizer, inputs, use_reentrant=False) if recompute else quantizer(inputs)
        total_loss(out, x.sin(), nats=False).backward()  # pyright: ignore
        gradients.append({**{n: p.grad for n, p in quantizer.named_parameters()}, "latents": inputs.grad})
    assert_same(gradients[1], gradients[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("support", [None, 6])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_compiled_without_a_graph_break(support, estimator) -> None:
    torch.compiler.reset()
    choice = {"support": support, "estimator": estimator, "dtype": torch.float32}
    results = []
    for compiled in (False, True):
        quantizer = layer(codebook_size=CODES, **choice)  # pyright: ignore
        if compiled:
            quantizer.compile(fullgraph=True, backend="aot_eager")
        strided = latents(30, dtype=torch.float32).T.contiguous().T  # as channels-first images are
        results.append(run(quantizer, strided))
    torch.testing.assert_close(results[1][0].nats, results[0][0].nats)
    assert torch.equal(results[1][0].indices, results[0][0].indices)
    assert_same(results[1][1], results[0][1], rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("support", [None, 3])
def test_exported_eval_is_the_same(support) -> None:
    quantizer = built(support=support, dtype=torch.float32).eval()
    x = latents(8, dtype=torch.float32)
    exported = torch.export.export(quantizer, (x,)).module()(x)
    expected = quantizer(x)
    assert torch.equal(exported.indices, expected.indices)
    torch.testing.assert_close(exported.quantized, expected.quantized, rtol=0.0, atol=0.0)
    assert_same(exported.terms, expected.terms)


def test_the_support_survives_the_config_and_a_former_choice_of_kernel_is_ignored() -> None:
    config = json.loads(json.dumps(GaussianMixtureVQ(3, 50, support=16).to_config()))
    for former in ({}, {"backend": "triton"}):
        again = from_config(config | former)
        assert isinstance(again, GaussianMixtureVQ)
        assert again.support == 16
        assert again.to_config() == config


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"support": 0}, ValueError, "support must be positive, got 0"),
        (
            {"support": 1},
            ValueError,
            "support must be at least 2, got 1: a posterior on one code is constant",
        ),
        ({"support": 2.5}, TypeError, "support must be a whole number, got 2.5"),
        ({"support": True}, TypeError, "support must be a whole number"),
    ],
)
def test_bad_choices(choice, error, message) -> None:
    with pytest.raises(error, match=message):
        GaussianMixtureVQ(3, 50, **choice)


def test_support_can_change_during_training() -> None:
    """A dense warm-up: the same layer, set to k codes later."""
    quantizer = built()
    quantizer.support = 4
    out, _ = seeded(quantizer)
    assert out.terms["conditional_entropy"] < torch.tensor(4.0).log()


def test_a_second_derivative_is_refused() -> None:
    x = latents(12).requires_grad_()
    out = built(support=4)(x.sin())
    (grad,) = torch.autograd.grad(out.quantized.sin().sum() + out.nats, x, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.square().sum().backward()


def test_a_posterior_on_all_codes_keeps_nothing_of_size_n_k() -> None:
    quantizer = GaussianMixtureVQ(4, 2048, support=None)
    quantizer.init_codebook(torch.randn(4096, 4))
    assert largest_allocation(lambda: run(quantizer, torch.randn(20_000, 4))) <= 1 << 20 < 20_000 * 2048


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents(dtype) -> None:
    quantizer = built(support=4, dtype=torch.float32)
    x = latents(30, dtype=torch.float32)
    expected, _ = seeded(quantizer, None)
    torch.manual_seed(5)
    out, grads = run(quantizer, x.to(dtype), None, autocast=torch.bfloat16)
    assert out.quantized.dtype == dtype
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    torch.testing.assert_close(out.nats, expected.nats.float(), rtol=0.05, atol=0.05)

"""Dtypes: the input's comes out, float32 (or float64) is computed in, autocast or not."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from quantizer_cases import assert_same, latents, layer, run

from gmvq import GaussianMixtureVQ, GroupedGMVQ, PyramidGMVQ, RaggedGMVQ, ResidualGMVQ
from gmvq.types import QuantizerOutput

HALVES = (torch.float16, torch.bfloat16)


def single() -> GaussianMixtureVQ:
    """A float32 layer with noise: equal seeds must give equal samples."""
    return layer(dtype=torch.float32, gumbel_noise=1.0, sample_noise=1.0)


def seeded(x: torch.Tensor, **options: Any) -> tuple[QuantizerOutput, dict[str, torch.Tensor]]:
    built = single()
    torch.manual_seed(5)
    return run(built, x, **options)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_inputs_are_computed_in_float32(dtype) -> None:
    x = latents().to(dtype)
    out, grads = seeded(x)
    expected, expected_grads = seeded(x.float())
    assert out.quantized.dtype == grads["latents"].dtype == dtype
    assert out.loss.dtype == out.nats.dtype == out.log_variance.dtype == torch.float32
    torch.testing.assert_close(out.quantized, expected.quantized.to(dtype), rtol=0.0, atol=0.0)
    torch.testing.assert_close(out.nats, expected.nats, rtol=0.0, atol=0.0)
    assert torch.equal(out.indices, expected.indices)
    for name, grad in grads.items():
        torch.testing.assert_close(grad.float(), expected_grads[name], rtol=3e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("nats", [True, False])
def test_autocast_changes_nothing(dtype, nats) -> None:
    x = latents(dtype=torch.float32)
    out, grads = seeded(x, autocast=dtype, nats=nats)
    expected, expected_grads = seeded(x, nats=nats)
    torch.testing.assert_close(out.quantized, expected.quantized, rtol=0.0, atol=0.0)
    torch.testing.assert_close(out.nats, expected.nats, rtol=0.0, atol=0.0)
    assert_same(out.terms, expected.terms, rtol=0.0, atol=0.0)
    assert_same(grads, expected_grads, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_changes_neither_posterior_nor_start_nor_tokens(dtype) -> None:
    x = latents(60, dtype=torch.float32)
    built, inside = single(), layer(dtype=torch.float32, started=False)
    outside = layer(dtype=torch.float32, started=False)
    with torch.autocast("cpu", dtype=dtype):
        log_q, indices = built.posterior_logits(x), built.eval().encode(x)
        codes = built.get_codes_from_indices(indices)
        inside.init_codebook(x)
    torch.testing.assert_close(log_q, built.posterior_logits(x), rtol=0.0, atol=0.0)
    assert torch.equal(indices, built.encode(x))
    torch.testing.assert_close(codes, built(x).quantized, rtol=0.0, atol=0.0)
    outside.init_codebook(x)
    assert_same(inside.state_dict(), outside.state_dict(), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_precision_module_trains_and_stays_near_its_float32_twin(dtype) -> None:
    choice = {"dtype": torch.float32, "mixture_weights": "learned"}
    built = layer(**choice).to(dtype)
    twin = layer(**choice)
    twin.load_state_dict(built.state_dict())  # the same parameters, computed with in float32 throughout
    x = latents().to(dtype)
    out, grads = run(built, x)
    expected, expected_grads = run(twin, x.float())
    assert out.quantized.dtype == dtype
    assert out.nats.dtype == torch.float32
    torch.testing.assert_close(out.nats, expected.nats, rtol=3e-2, atol=1e-2)
    torch.testing.assert_close(out.quantized.float(), expected.quantized, rtol=3e-2, atol=2e-2)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        assert torch.isfinite(grad).all(), name
        similarity = torch.cosine_similarity(grad.float().flatten(), expected_grads[name].flatten(), dim=0)
        assert similarity > 0.95, name


@pytest.mark.parametrize("module", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs", [torch.float32, torch.float64])
def test_module_and_input_of_different_precision(module, inputs) -> None:
    built, x = layer(dtype=torch.float32).to(module), latents().to(inputs)
    out, grads = run(built, x)
    reference, _ = run(layer(dtype=torch.float32), x.float())
    assert out.quantized.dtype == grads["latents"].dtype == inputs
    assert grads["codebook"].dtype == module
    torch.testing.assert_close(out.quantized.float(), reference.quantized, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.nats.float(), reference.nats, rtol=1e-5, atol=1e-5)
    assert torch.equal(out.indices, reference.indices)


def test_float64_is_not_cut_to_float32_on_the_way() -> None:
    """Values that float32 cannot hold survive: float64 results differ from float32 ones by its rounding only."""
    built = layer(codebook_size=3, mixture_weights="uniform")
    log_pi = built.log_weights()
    assert log_pi.dtype == torch.float64
    torch.testing.assert_close(log_pi.exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-15, atol=0.0)
    learned = layer(mixture_weights="learned").log_weights()
    torch.testing.assert_close(learned.exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("weights", ["uniform", "learned"])
def test_codes_of_indices_equal_the_eval_forward(dtype, weights) -> None:
    built, x = layer(dtype=torch.float32, mixture_weights=weights).to(dtype).eval(), latents(40).to(dtype)
    out = built(x)
    assert torch.equal(built.encode(x), out.indices)
    codes = built.get_codes_from_indices(out.indices)
    assert codes.dtype == dtype
    torch.testing.assert_close(codes, out.quantized, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64],
)
@pytest.mark.parametrize(
    "kind", [GaussianMixtureVQ, ResidualGMVQ, functools.partial(GroupedGMVQ, groups=1), RaggedGMVQ]
)
def test_tokens_of_any_integer_type_decode(dtype, kind) -> None:
    built, x = kind(3, 5), latents(60, dtype=torch.float32)
    built.init_codebook(x)
    indices = built.eval().encode(x)
    tokens = indices.to(dtype)
    codes = built.get_codes_from_indices(indices)
    torch.testing.assert_close(built.get_codes_from_indices(tokens), codes, rtol=0.0, atol=0.0)
    posterior = built.posterior(x)
    torch.testing.assert_close(posterior.log_prob(tokens), posterior.log_prob(indices))
    torch.testing.assert_close(posterior.cross_entropy(tokens), posterior.cross_entropy(indices))


@pytest.mark.parametrize("kind", [GaussianMixtureVQ, ResidualGMVQ, GroupedGMVQ, PyramidGMVQ])
def test_tokens_that_are_no_tensor_of_integers_are_refused(kind) -> None:
    built = kind(4, 5)
    for tokens in ([0, 1], torch.zeros(1, 2).numpy(), torch.zeros(1, 2)):
        with pytest.raises(TypeError, match=r"indices must be (a torch\.Tensor|integers), got"):
            built.get_codes_from_indices(tokens)

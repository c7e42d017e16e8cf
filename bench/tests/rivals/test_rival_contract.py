"""One contract over every baseline."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from rival_cases import (
    ALL,
    CONTINUOUS,
    OURS,
    WITH_CODES,
    D,
    K,
    build,
    fit_clusters,
    latents,
    objective,
    state,
    trained,
)

from gmvq.errors import MissingExtraError
from gmvq_bench.rivals import BASELINES, build_baseline, options_of

every = pytest.mark.parametrize("name", ALL)
#: Codebooks that move in training forward and not by a gradient.
EMA = ("vq-ema", "vq-ema-replace", "vq-cosine", "vq-rotation")


@every
@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_ranges(name: str, training: bool) -> None:
    layer = trained(name).train(training)
    x = latents(2, 3, 4).requires_grad_()
    out = layer(x)
    assert out.quantized.shape == (2, 3, 4, D)
    assert out.indices.shape == out.log_variance.shape == (2, 3, 4)
    assert out.indices.dtype == torch.int64
    assert 0 <= int(out.indices.min()) <= int(out.indices.max()) < K
    assert out.loss.shape == out.nats.shape == ()
    assert {"perplexity", "usage"} <= out.terms.keys()
    for value in (out.quantized, out.loss, out.nats, *out.terms.values()):
        assert torch.isfinite(value).all()
    assert not any(value.requires_grad for value in out.terms.values())
    assert not out.log_variance.any()


@every
def test_eval_is_the_look_up_and_changes_nothing(name: str) -> None:
    layer = trained(name).eval()
    x = latents(3, 50, seed=4)
    before = state(layer)
    first, second = layer(x), layer(x)
    indices = layer.encode(x)
    assert torch.equal(first.quantized, second.quantized)
    assert torch.equal(first.indices, indices)
    for key, value in state(layer).items():
        assert torch.equal(value, before[key]), key
    if name in CONTINUOUS:
        assert torch.equal(first.quantized, x)
        with pytest.raises(ValueError, match="no codes"):
            layer.get_codes_from_indices(indices)
        return
    assert torch.equal(layer.get_codes_from_indices(indices), first.quantized)
    assert torch.equal(layer.get_codes_from_indices(indices[1, :3]), first.quantized[1, :3])
    table = layer.get_codes_from_indices(torch.arange(K))
    assert torch.equal(table[indices], first.quantized)


@every
def test_an_untrained_layer_can_be_evaluated(name: str) -> None:
    out = build(name).eval()(latents(5))
    assert torch.isfinite(out.quantized).all()


@every
def test_gradients_reach_encoder_and_codebook(name: str) -> None:
    layer = trained(name).train()
    before = state(layer)
    x = latents(4, 16, seed=7).requires_grad_()
    out = layer(x)
    objective(layer, out, out.quantized.flatten(1), torch.zeros(4, 16 * D) + 0.3).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key
    if name in EMA:
        changed = [key for key, value in state(layer).items() if not torch.equal(value, before[key])]
        assert any(key.endswith("embed") for key in changed)


@every
def test_masked_positions_change_nothing(name: str) -> None:
    start = trained(name)
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) < 0.7
    results = []
    for garbage in (0.0, 1e4):
        layer = copy.deepcopy(start).train()
        x = torch.where(mask[..., None], latents(3, 20, seed=3), garbage).requires_grad_()
        torch.manual_seed(0)
        out = layer(x, mask)
        (out.quantized.square().sum() + out.loss).backward()
        assert x.grad is not None
        assert not x.grad[~mask].any()
        assert (out.indices[~mask] == -1).all()
        assert not out.quantized[~mask].any()
        results.append((out, state(layer)))
    (a, state_a), (b, state_b) = results
    assert torch.equal(a.quantized, b.quantized)
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.loss, b.loss)
    for key, value in state_a.items():
        assert torch.equal(value, state_b[key]), key
    # and the statistics are those of the valid rows alone
    alone = copy.deepcopy(start).train()
    torch.manual_seed(0)
    only = alone(latents(3, 20, seed=3)[mask].requires_grad_())
    torch.testing.assert_close(only.loss, a.loss)
    torch.testing.assert_close(only.quantized, a.quantized[mask])
    for key, value in state(alone).items():
        assert torch.equal(value, state_a[key]), key


@every
def test_a_batch_that_is_all_masked(name: str) -> None:
    layer = trained(name).train()
    before = state(layer)
    x = latents(2, 5).requires_grad_()
    out = layer(x, torch.zeros(2, 5, dtype=torch.bool))
    (out.quantized.sum() + out.loss).backward()
    assert (out.indices == -1).all()
    assert not out.quantized.any()
    assert all(torch.isfinite(value) for value in out.terms.values())
    assert all(torch.equal(value, before[key]) for key, value in state(layer).items())


@every
def test_dtypes_come_back(name: str) -> None:
    layer = trained(name)
    for dtype in (torch.bfloat16, torch.float64):
        for training in (True, False):
            out = layer.train(training)(latents(2, 12).to(dtype).requires_grad_())
            assert out.quantized.dtype == dtype
            assert torch.isfinite(out.loss)


@every
def test_checkpoints_and_configs(name: str) -> None:
    layer = trained(name).eval()
    config = layer.to_config()
    assert config.pop("type") == "baseline"
    other = build_baseline(**config)
    other.load_state_dict(layer.state_dict())
    x = latents(4, 9, seed=2)
    assert torch.equal(other.eval()(x).quantized, layer(x).quantized)
    assert set(layer.options) == set(options_of(name))


@every
def test_parameter_groups_hold_every_parameter_once(name: str) -> None:
    layer = build(name)
    groups = layer.parameter_groups(1e-3)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in layer.parameters())


@every
def test_training_reduces_the_error(name: str) -> None:
    before, after = fit_clusters(build(name))
    assert before > 1.0
    assert after < 0.7


@pytest.mark.parametrize("name", [n for n in WITH_CODES if hasattr(BASELINES[n], "set_progress")])
def test_progress_anneals_the_temperature(name: str) -> None:
    layer = build(name)
    values = []
    for progress in (0.0, 0.5, 1.0):
        layer.set_progress(progress)  # pyright: ignore[reportCallIssue]
        values.append(float(layer(latents(4)).terms["temperature"]))
    assert values[0] == 1.0
    assert values[0] > values[1] > values[2] > 0.0
    with pytest.raises(ValueError, match="progress"):
        layer.set_progress(1.5)  # pyright: ignore[reportCallIssue]


def test_without_the_package_ours_work_and_the_others_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    for name in ALL:
        if name in OURS:
            build(name)(latents(3))
        else:
            with pytest.raises(MissingExtraError, match="bench"):
                build_baseline(name, D, K)


def test_bad_requests_are_explained() -> None:
    with pytest.raises(ValueError, match="did you mean 'vq-cosine'"):
        build_baseline("vq-cosin", D, K)
    with pytest.raises(ValueError, match="sq-vae"):
        build_baseline("nothing", D, K)
    with pytest.raises(ValueError, match=r"commitment_weight=0\.25"):
        build_baseline("cvq", D, K, commitment=1.0)
    with pytest.raises(ValueError, match="options: none"):
        build_baseline("ae", D, K, commitment=1.0)
    for name in ("fsq", "fsp", "lfq", "bsq"):
        with pytest.raises(ValueError, match="power of two"):
            build_baseline(name, D, 1000)
    with pytest.raises(ValueError, match="15 codes"):
        build_baseline("fsq", D, 16, levels=[5, 3])
    with pytest.raises(ValueError, match="anchor"):
        build_baseline("cvq", D, K, anchor="far")

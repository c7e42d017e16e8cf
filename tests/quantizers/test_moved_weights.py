"""However people move weights: a trained codebook is never started again, and indices stay as they were, bit by bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from weight_moves import (
    LAYERS,
    MOVES,
    D,
    K,
    assert_goes_on,
    feed,
    fresh,
    in_place,
    latents,
    mixtures,
    step,
    tokens,
    trained,
)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("move", MOVES)
def test_moved_weights_are_the_layer(name, move, tmp_path) -> None:
    source = trained(name)
    moved = MOVES[move](source, name, tmp_path)
    assert all(layer.started for layer in mixtures(moved))
    expected = tokens(source)
    assert (expected >= 0).all()
    assert len(expected.unique()) > 4
    assert torch.equal(tokens(moved), expected)
    assert_goes_on(moved)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("move", MOVES)
def test_the_first_call_after_a_move_may_be_a_training_step(name, move, tmp_path) -> None:
    assert_goes_on(MOVES[move](trained(name), name, tmp_path))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("late", [False, True], ids=["made before the start", "made after the start"])
def test_averaged_models(name, buffers, late) -> None:
    source = trained(name) if late else fresh(name)
    optimizer = torch.optim.Adam(source.parameters(), lr=1e-3)
    average = AveragedModel(source, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=buffers)
    for seed in range(10, 20):
        step(source, optimizer, seed)
        average.update_parameters(source)
    assert all(layer.started for layer in mixtures(average))
    same = (tokens(average) == tokens(source)).double().mean()
    assert same > 0.8, "the average is near the last, and of the same codes in the same order"
    once = tokens(average)
    assert torch.equal(tokens(average), once)
    assert_goes_on(average)


@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_made_while_it_waits_keeps_the_codes_that_it_gets(name) -> None:
    """It has latents for a start of its own, which ``eval()`` must not make any more."""
    source = fresh(name)
    optimizer = torch.optim.Adam(source.parameters(), lr=1e-3)
    for seed in range(3):
        feed(source, latents(seed).requires_grad_())
    average = copy.deepcopy(source)
    for seed in range(10, 14):
        step(source, optimizer, seed)
    source.state_dict()
    in_place(source, average)
    assert torch.equal(tokens(average), tokens(source))
    assert_goes_on(average)


@pytest.mark.parametrize("name", ["residual, shared", "pyramid"])
@pytest.mark.parametrize("move", ["assign", "onto meta", "emptied"])
def test_a_shared_codebook_is_one_after_loading(name, move, tmp_path) -> None:
    """Also after more training, whose file a new layer reads."""
    moved = MOVES[move](trained(name), name, tmp_path)
    step(moved.train(), torch.optim.Adam(moved.parameters(), lr=1e-2), 20)
    again = fresh(name)
    again.load_state_dict(moved.state_dict())
    assert torch.equal(tokens(again), tokens(moved))
    assert len({id(layer.codebook) for layer in mixtures(moved)}) == 1


@pytest.mark.parametrize("name", LAYERS)
def test_unfrozen_as_a_whole_only_codes_and_maps_have_gradients(name) -> None:
    """As ``requires_grad_(True)`` does after a freeze, and ``PreTrainedModel.from_pretrained`` to all parameters."""
    built = trained(name).requires_grad_(False).requires_grad_(True)
    follow = ("mean", "scale", "log_precision")
    values = latents(7).requires_grad_()
    out = feed(built, values)
    (out.quantized.square().mean() + out.loss).backward()
    for key, parameter in built.named_parameters():
        assert (parameter.grad is None) == key.endswith(follow), key
    built.train()
    assert {key for key, own in built.named_parameters() if not own.requires_grad} == {
        key for key, _ in built.named_parameters() if key.endswith(follow)
    }


@pytest.mark.parametrize("name", LAYERS)
def test_weights_swapped_in_for_an_evaluation_are_not_taught_what_others_saw(name) -> None:
    """An average is copied into the training model, evaluated, and the weights are put back."""
    source = trained(name)
    average = copy.deepcopy(source)
    optimizer = torch.optim.Adam(source.parameters(), lr=1e-3)
    for seed in range(10, 14):
        step(source, optimizer, seed)
    own = [parameter.detach().clone() for parameter in source.parameters()]
    average.eval()
    with torch.no_grad():
        for parameter, value in zip(source.parameters(), average.parameters(), strict=True):
            parameter.data.copy_(value)
    assert torch.equal(tokens(source), tokens(average))
    with torch.no_grad():
        for parameter, value in zip(source.parameters(), own, strict=True):
            parameter.data.copy_(value)
    assert_goes_on(source)


@pytest.mark.parametrize("name", LAYERS)
def test_a_pass_for_the_statistics_keeps_the_codebook(name) -> None:
    """As ``update_bn``: train mode, no gradients, no optimizer. Statistics may move, as batch normalization's do."""
    built = trained(name)
    with torch.no_grad():
        for seed in range(60, 120):
            feed(built, latents(seed, 4096))
        before = tokens(built)
        codebooks = [layer.codebook.clone() for layer in mixtures(built)]
        feed(built.train(), latents(3, 4096))
    assert (tokens(built) == before).double().mean() >= 0.97
    for layer, codebook in zip(mixtures(built), codebooks, strict=True):
        torch.testing.assert_close(layer.codebook.detach(), codebook, rtol=0.0, atol=0.1)


@pytest.mark.parametrize("name", LAYERS)
def test_what_has_not_started_loads_as_not_started(name, tmp_path) -> None:
    save_file({k: v.clone() for k, v in fresh(name).state_dict().items()}, tmp_path / "new.safetensors")
    target = trained(name)
    target.load_state_dict(load_file(tmp_path / "new.safetensors"))
    assert not any(layer.started for layer in mixtures(target))
    feed(target.train(), latents(0))  # starts: latents without gradient
    assert all(layer.started for layer in mixtures(target))


@pytest.mark.parametrize("name", LAYERS)
def test_a_file_in_the_middle_of_the_wait_goes_on_waiting(name) -> None:
    source, target = fresh(name), fresh(name)
    for seed in range(3):
        feed(source, latents(seed).requires_grad_())
    target.load_state_dict(source.state_dict())
    assert not any(layer.started for layer in mixtures(target))
    assert int(mixtures(target)[0].batches) == 3
    feed(target, latents(3).requires_grad_())
    assert int(mixtures(target)[0].batches) == 4


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("used", [False, True], ids=["emptied", "trained"])
def test_what_is_reset_is_new(name, used) -> None:
    """As torch's own layers, which loops over modules reset by ``reset_parameters``."""
    built = trained(name)
    if not used:
        built.to("meta").to_empty(device="cpu")
        with torch.no_grad():
            for value in (*built.parameters(), *built.buffers()):
                value.fill_(7)  # whatever was in memory
    for module in built.modules():
        getattr(module, "reset_parameters", lambda: None)()
    expected = fresh(name).state_dict()
    assert built.state_dict().keys() == expected.keys()
    for key, value in built.state_dict().items():
        assert torch.equal(value, expected[key]) or "project" in key, key
    assert (feed(built, latents(0).requires_grad_()).indices == -1).all()
    shares = any(getattr(module, "shared_codebook", False) for module in built.modules())
    assert len({id(layer.codebook) for layer in mixtures(built)}) == (1 if shares else len(mixtures(built)))


@pytest.mark.parametrize(
    "write",
    [
        lambda codebook, values: codebook.data.copy_(values),
        lambda codebook, values: nn.init.normal_(codebook),
        lambda codebook, values: codebook.detach().clamp_(-0.3, 0.3),
    ],
    ids=["copy", "init", "clamp"],
)
def test_what_is_written_into_the_codebook_arrives(write) -> None:
    built: Any = trained("defaults").eval()
    before = tokens(built)
    torch.manual_seed(5)
    write(built.codebook, torch.randn(K, D))
    assert not torch.equal(tokens(built), before)
    codes = built.get_codes_from_indices(torch.arange(K))
    torch.testing.assert_close(codes, built.unstandardized(built.codebook.detach()), rtol=0.0, atol=0.0)
    assert_goes_on(built, most=0.5)  # it learns from there


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_quantized_may_be_written_to(name) -> None:
    """As ``nn.ReLU(inplace=True)`` at the head of a decoder does."""
    x = latents(0).requires_grad_()
    out = feed(trained(name).train(), x)
    (out.quantized.relu_().sum() + out.loss).backward()
    assert x.grad is not None
    assert x.grad.any()

"""However people move weights: a trained codebook is never started again, and indices stay as they were, bit by bit."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gmvq import ChannelsFirst, GaussianMixtureVQ, GroupedGMVQ, PyramidGMVQ, RaggedGMVQ, ResidualGMVQ
from gmvq.quantizers.blocks import scale_places
from gmvq.types import QuantizerOutput

D, K = 6, 16

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "defaults": lambda: GaussianMixtureVQ(D, K),
    "projected": lambda: GaussianMixtureVQ(D, K, codebook_dim=3),
    "all codes": lambda: GaussianMixtureVQ(D, K, support=None),
    "residual": lambda: ResidualGMVQ(D, K, 2),
    "residual, shared": lambda: ResidualGMVQ(D, K, 2, shared_codebook=True),
    "grouped": lambda: GroupedGMVQ(D, K, 2),
    "pyramid": lambda: PyramidGMVQ(D, K, 2),
    "ragged": lambda: RaggedGMVQ(D, K, 2),
    "channels first": lambda: ChannelsFirst(GaussianMixtureVQ(D, K)),
}


def latents(seed: int, count: int = 256) -> Tensor:
    """Of scale 20 and mean 3, so that a layer that has not learned them, or starts again, shows."""
    generator = torch.Generator().manual_seed(seed)
    return 3.0 + 20.0 * torch.randn(count, D, generator=generator)


def feed(built: nn.Module, values: Tensor) -> QuantizerOutput:
    """Latents (N, D) in the layout of the layer."""
    if any(isinstance(module, PyramidGMVQ | RaggedGMVQ) for module in built.modules()):
        return built(values.view(-1, 4, 4, D))
    channels_first = any(isinstance(module, ChannelsFirst) for module in built.modules())
    return built(values.view(-1, 16, D).movedim(-1, 1) if channels_first else values)


def trained(name: str) -> nn.Module:
    """A few optimizer steps after the start."""
    torch.manual_seed(0)
    built = LAYERS[name]()
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-3)
    for seed in range(4):
        step(built, optimizer, seed)
    return built


def step(built: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    out = feed(built, latents(seed))
    optimizer.zero_grad()
    (out.quantized.square().mean() + out.loss).backward()
    optimizer.step()


def fresh(name: str) -> nn.Module:
    torch.manual_seed(1)
    return LAYERS[name]()


def mixtures(built: nn.Module) -> list[GaussianMixtureVQ]:
    return [module for module in built.modules() if isinstance(module, GaussianMixtureVQ)]


@torch.no_grad()
def in_place(source: nn.Module, target: nn.Module) -> None:
    for values, own in (
        (source.named_parameters(), target.get_parameter),
        (source.named_buffers(), target.get_buffer),
    ):
        for key, value in values:
            own(key).data.copy_(value)


def by_name(source: nn.Module, name: str, _: Path) -> nn.Module:
    target = fresh(name)
    source.state_dict()  # an M-step that is pending belongs to the weights
    in_place(source, target)
    return target


def parameters_alone(source: nn.Module, name: str, _: Path) -> nn.Module:
    """As tools do that know nothing of buffers."""
    target = fresh(name)
    source.state_dict()
    with torch.no_grad():
        for own, value in zip(target.parameters(), source.parameters(), strict=True):
            own.copy_(value)
    return target


def hand_written_average(source: nn.Module, name: str, _: Path) -> nn.Module:
    target = fresh(name)
    source.state_dict()
    with torch.no_grad():
        for _step in range(2):
            for own, value in zip(target.parameters(), source.parameters(), strict=True):
                own.lerp_(value, 1.0)
    return target


def average_of_state(source: nn.Module, name: str, _: Path) -> nn.Module:
    """An average kept as a dictionary of tensors, floating-point ones averaged, the rest copied."""
    average = {key: value.clone() for key, value in source.state_dict().items()}
    for key, value in source.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 0.5)
        else:
            average[key].copy_(value)
    target = fresh(name)
    target.load_state_dict(average)
    return target


def loading(**options: Any) -> Callable[[nn.Module, str, Path], nn.Module]:
    def move(source: nn.Module, name: str, _: Path) -> nn.Module:
        target = fresh(name)
        target.load_state_dict(copy.deepcopy(source.state_dict()), **options)
        return target

    return move


def without_buffers(source: nn.Module, name: str, _: Path) -> nn.Module:
    """A file of the parameters alone, loaded with strict=False."""
    target, state = fresh(name), source.state_dict()
    names = dict(source.named_parameters(remove_duplicate=False))
    target.load_state_dict({key: value for key, value in state.items() if key in names}, strict=False)
    return target


def safetensors_model(source: nn.Module, name: str, folder: Path) -> nn.Module:
    target = fresh(name)
    save_model(source, str(folder / "model.safetensors"))
    load_model(target, folder / "model.safetensors")
    return target


def safetensors_file(source: nn.Module, name: str, folder: Path) -> nn.Module:
    target = fresh(name)
    save_file({key: value.clone() for key, value in source.state_dict().items()}, folder / "file.safetensors")
    target.load_state_dict(load_file(folder / "file.safetensors"))
    return target


def torch_file(source: nn.Module, name: str, folder: Path) -> nn.Module:
    target, file = fresh(name), io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    return target


def whole_pickle(source: nn.Module, name: str, _: Path) -> nn.Module:
    file = io.BytesIO()
    torch.save(source, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def sharded_checkpoint(source: nn.Module, name: str, folder: Path) -> nn.Module:
    """``torch.distributed.checkpoint`` writes into the tensors of the target in place; nothing else is called."""
    target = fresh(name)
    dcp.save(source.state_dict(), checkpoint_id=str(folder / "sharded"))
    dcp.load(target.state_dict(), checkpoint_id=str(folder / "sharded"))
    return target


def onto_meta(source: nn.Module, name: str, _: Path) -> nn.Module:
    """As large models are loaded: built without memory, and given the tensors of one file after the other."""
    with torch.device("meta"):
        target = fresh(name)
    state = list(source.state_dict().items())
    for shard in ({}, dict(state[::2]), dict(state[1::2])):
        target.load_state_dict(shard, strict=False, assign=True)
    return target


def emptied(source: nn.Module, name: str, _: Path) -> nn.Module:
    with torch.device("meta"):
        target = fresh(name)
    target.to_empty(device="cpu").load_state_dict(source.state_dict())
    return target


MOVES: dict[str, Callable[[nn.Module, str, Path], nn.Module]] = {
    "by name": by_name,
    "parameters alone": parameters_alone,
    "hand-written average": hand_written_average,
    "average of the state": average_of_state,
    "strict": loading(),
    "not strict": loading(strict=False),
    "assign": loading(assign=True),
    "without buffers": without_buffers,
    "safetensors model": safetensors_model,
    "safetensors file": safetensors_file,
    "torch file": torch_file,
    "pickle": whole_pickle,
    "deepcopy": lambda source, name, folder: copy.deepcopy(source),
    "sharded checkpoint": sharded_checkpoint,
    "onto meta": onto_meta,
    "emptied": emptied,
}


def tokens(built: nn.Module) -> Tensor:
    """In eval, of latents it was not trained on; of a pyramid the places that hold codes."""
    mode = built.training
    built.eval()
    with torch.no_grad():
        indices = feed(built, latents(99)).indices
    built.train(mode)
    pyramid = next((module for module in built.modules() if isinstance(module, PyramidGMVQ)), None)
    if pyramid is not None:
        indices = indices.flatten(1)[:, torch.cat(scale_places((4, 4), *pyramid.index_shape))]
    return indices


def assert_goes_on(built: nn.Module, most: float = 0.15) -> None:
    """A step in train mode moves the codebook a little, as a step does, and starts nothing again."""
    built.train()
    before = [layer.codebook.detach().clone() for layer in mixtures(built)]
    scales = [layer.scale.clone() for layer in mixtures(built)]
    for seed in (50, 51):
        feed(built, latents(seed))
    built.eval()
    for layer, codebook, scale in zip(mixtures(built), before, scales, strict=True):
        assert layer.started
        torch.testing.assert_close(layer.scale, scale, rtol=0.02, atol=0.0)
        moved = (layer.codebook.detach() - codebook).norm(dim=-1) / codebook.norm(dim=-1).mean()
        assert moved.median() < most, "fitted again"


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

"""Every way in which people move weights from one layer to another, and what must hold after each."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

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

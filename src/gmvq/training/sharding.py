"""``ShardedStrategy``: fully sharded training (FSDP2), in which the networks are divided among processes.

Weights, gradients and Adam's averages of encoder and decoder lie in parts, one on each process, and a network is put
together while it runs. The quantizer stays whole everywhere, as its M-steps write into it, and so does whatever else
is small; their gradients are averaged one by one. Lightning's FSDPStrategy would divide it too, and lose its M-steps.

A checkpoint is that of one process: whole tensors, by the names and numbers that they have without division. So a run
goes on with another number of processes, with ddp, or alone, and every command reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from ..functional.distributed import all_reduce_sum


class ShardedStrategy(ModelParallelStrategy):
    """What ``gmvq fit --trainer.strategy fsdp`` trains with, on GPUs or, for tests, on CPUs.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(strategy=ShardedStrategy(), accelerator="cpu", devices=2, use_distributed_sampler=False)
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self._plain: dict[str, nn.Module] = {}  # the networks without weights, as they were

    def setup_environment(self) -> None:
        if not isinstance(self.lightning_module, Divisible):
            raise ValueError("fsdp divides the networks of a tokenizer, and this is none; use strategy=ddp")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self._gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return self._gathered(optimizer.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module = self.lightning_module
        assert module is not None
        own = dict(module.named_parameters())
        state = {name: _divided(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            by_number = dict(zip(numbers, own, strict=True))
            state = {
                number: {key: _divided(value, by_number[number]) for key, value in averages.items()}
                for number, averages in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def divide(self, module: LightningModule, model: Any) -> None:
        """Divide encoder and decoder of a model within a module; all processes do so together."""
        mesh = self.device_mesh["data_parallel"]
        for name in ("encoder", "decoder"):
            net = getattr(model, name)
            self._plain[name] = copy.deepcopy(net).to("meta")
            # Parts of a weight are rows of it, which lie together in this format alone.
            fully_shard(net.to(memory_format=torch.contiguous_format), mesh=mesh)
        for parameter in module.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.register_post_accumulate_grad_hook(_average)

    def gather(self, model: Any) -> None:
        """Make both whole again on every process, together; one may then use the model alone."""
        while self._plain:
            name, net = self._plain.popitem()
            divided = getattr(model, name)
            state = pytree.tree_map_only(DTensor, DTensor.full_tensor, divided.state_dict())
            net.to_empty(device=self.root_device).load_state_dict(state)
            setattr(model, name, net.train(divided.training))

    def _gathered(self, tree: Any) -> Any:
        """Whole tensors on the host, in the first process alone: every process has to ask for them together."""

        def whole(value: DTensor) -> Tensor | None:
            found = value.full_tensor()
            return found.cpu() if self.is_global_zero else None

        return pytree.tree_map_only(DTensor, whole, tree)


def _divided(value: Any, like: Any) -> Any:
    """A whole tensor, divided as ``like`` is, if it is and has the same shape: not Adam's count of steps."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _average(parameter: Tensor) -> None:
    """The mean over processes of a gradient; of one that was averaged before, and added to since, of what was added."""
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


class Divisible(LightningModule):
    """Hooks of a module whose ``model`` has an encoder and a decoder that may be divided."""

    model: Any

    def needs_whole(self) -> str | None:
        """What of this training needs whole parameters on every process, and how to leave it out; None if nothing."""

    def configure_model(self) -> None:
        """Divide the networks, where the strategy does."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            return
        if not isinstance(strategy, ShardedStrategy):
            raise ValueError(
                f"{type(strategy).__name__} divides the quantizer, whose M-steps would be lost; use "
                "strategy=ShardedStrategy() of gmvq.training, which is --trainer.strategy fsdp, or ddp"
            )
        reason = self.needs_whole()
        if reason:
            raise ValueError(f"whole parameters on every process are needed by {reason}, or use strategy=ddp")
        strategy.divide(self, self.model)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip divided gradients and whole ones together, which torch's own functions refuse."""
        if not isinstance(self.trainer.strategy, ShardedStrategy):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = (value for group in optimizer.param_groups for value in group["params"])
            clip(parameters, gradient_clip_val, gradient_clip_algorithm == "value")

    def on_fit_end(self) -> None:
        """Make the networks whole: one process alone measures and exports."""
        if isinstance(self.trainer.strategy, ShardedStrategy):
            self.trainer.strategy.gather(self.model)


@torch.no_grad()
def clip(parameters: Iterable[Tensor], most: float, by_value: bool) -> None:
    """Clip gradients, some of them divided, by their norm together or each of their values."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
    if by_value:
        for part in parts:
            part.clamp_(-most, most)
        return
    squares = torch.stack([part.square().sum() for part in parts])
    divided = torch.tensor([isinstance(grad, DTensor) for grad in grads], device=squares.device)
    norm = (all_reduce_sum((squares * divided).sum()) + (squares * ~divided).sum()).sqrt()
    for part in parts:
        part.mul_((most / (norm + 1e-6)).clamp(max=1.0))

"""What a tokenizer costs on a device: parameters, operations, memory, and tokens per second, measured on noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from ..evaluation.metrics import CodebookMetrics
from ..functional.autocast import autocast_dtype
from ..models.interface import code_sizes
from ..screen import quiet
from .module import TokenizerModule
from .optimizer import build_optimizer, in_fastest_format


@dataclass(frozen=True)
class Cost:
    """What ``measure_cost`` found.

    Attributes:
        parameters: numbers that are trained, by part: encoder, quantizer, decoder.
        tokens_per_image: indices of one image, over all levels or groups.
        bits_per_image: of these tokens, as codes of one length.
        encode_flops, decode_flops: operations of one image, a multiplication and an addition counted as two.
        step_flops: operations of a training step.
        state_bytes: weights, gradients and the optimizer's averages.
        activation_bytes: what a training step keeps for its backward pass; on a GPU the most that it allocates.
        encode_tokens_per_second, decode_tokens_per_second: measured in eval.
        step_seconds: one training step, without the reading of data.
    """

    parameters: dict[str, int]
    tokens_per_image: int
    bits_per_image: float
    encode_flops: int
    decode_flops: int
    step_flops: int
    state_bytes: int
    activation_bytes: int
    encode_tokens_per_second: float
    decode_tokens_per_second: float
    step_seconds: float


def measure_cost(
    module: TokenizerModule, shape: tuple[int, ...], device: torch.device, *, seconds: float = 2.0
) -> Cost:
    """Measure a tokenizer that need not have been trained; its weights are those of a few steps on noise afterwards.

    The operations are those of products of matrices and of convolutions, in the networks and in the search for codes.
    ``shape`` is that of a training batch, (B, C, *spatial). Each of the three speeds is measured for ``seconds``, at
    least one call.
    """
    module.to(device)
    model = module.model
    images = in_fastest_format(torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device))
    dtype = autocast_dtype(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None), quiet():
        model.train()
        latents = torch.randn(4096, model.quantizer.dim, generator=torch.Generator().manual_seed(0))
        model.quantizer.init_codebook(latents.to(device))  # pyright: ignore[reportAttributeAccessIssue]
        step = _step(module, images)
        step()
        step_flops = _flops(step)
        memory = _activations(step, module, device)
        step_seconds = _seconds(step, seconds)
        model.eval()
        tokens = model.encode(images)
        calls = (lambda: model.encode(images)), (lambda: model.decode(tokens))
        flops = [_flops(call) // shape[0] for call in calls]
        speeds = [int((tokens >= 0).sum()) / _seconds(call, seconds) for call in calls]
    codes = CodebookMetrics(code_sizes(model.quantizer))
    codes.update(tokens[:1])
    return Cost(
        parameters={
            name: sum(p.numel() for p in model.get_submodule(name).parameters() if p.requires_grad)
            for name in ("encoder", "quantizer", "decoder")
        },
        tokens_per_image=codes.positions,
        bits_per_image=codes.positions * math.log2(codes.mean_size),
        encode_flops=flops[0],
        decode_flops=flops[1],
        step_flops=step_flops,
        # A weight, its gradient and two averages of Adam.
        state_bytes=sum(4 * p.numel() * p.element_size() for p in module.parameters() if p.requires_grad),
        activation_bytes=memory,
        encode_tokens_per_second=speeds[0],
        decode_tokens_per_second=speeds[1],
        step_seconds=step_seconds,
    )


def _step(module: TokenizerModule, images: Tensor) -> Callable[[], Any]:
    """A training step as ``TokenizerModule`` makes it."""
    groups = module.model.parameter_groups(module.lr)
    groups += module.stage.parameter_groups() if module.stage else []
    optimizer = build_optimizer(groups, lr=module.lr, betas=module.betas, clips=False)

    def step() -> None:
        optimizer.zero_grad()
        module.loss(images, module.model(images), progress=1.0)[0].backward()
        optimizer.step()

    return step


def _product(query: Any, codebook: Any, *_: Any, **__: Any) -> int:
    """The operations of a search, which multiplies N rows with K codes of D features."""
    return 2 * query[0] * query[1] * codebook[0]


def _flops(call: Callable[[], Any]) -> int:
    ours = {torch.ops.gmvq.search_one: _product, torch.ops.gmvq.best_codes: _product}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        call()
    return counter.get_total_flops()


def _activations(step: Callable[[], Any], module: TokenizerModule, device: torch.device) -> int:
    """Bytes of what autograd keeps in a step beside the parameters; on a GPU the most that is allocated."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _seconds(call: Callable[[], Any], least: float) -> float:
    """The median time of a call that is repeated for a while; of one on a GPU with its work there."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=least).median

"""The dense sampling operation as two opaque operators, forward and backward, so that compiled code calls them whole.

``torch.compile`` and activation checkpointing see one operator each way; which of the row-block (``chunked``) or Triton
implementation runs inside is an argument.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..search import best_code
from . import chunked
from .reference import Inputs, MixtureSample

Mode = Literal["none", "soft", "hard"]
_Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def mixture_sample_dense(inputs: Inputs, mode: Mode, backend: str) -> MixtureSample:
    """``mixture_sample`` over all K codes by a fused implementation."""
    out = MixtureSample(*_Dense.apply(*inputs, mode, backend))  # pyright: ignore[reportGeneralTypeIssues]
    if mode == "none":
        return out._replace(mean=inputs.codebook[out.indices], second=inputs.extra[out.indices])
    return out


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        query, codebook, bias, extra, present, keys, temperature, noise, mode, backend = inputs
        outputs = sample_forward(*inputs)
        mean, second, entropy, aggregate, indices, drawn, log_totals = outputs
        ctx.save_for_backward(
            query, codebook, bias, extra, present, keys, temperature, noise, entropy, drawn, log_totals
        )  # fmt: skip
        ctx.mode, ctx.backend = mode, backend
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)
        return mean, second, entropy, aggregate, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        outputs = sample_backward(*grads[:4], *ctx.saved_tensors, ctx.mode, ctx.backend)
        return (*outputs, None, None, None, None, None, None)


@torch.library.custom_op("gmvq::sample_forward", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def sample_forward(
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    temperature: Tensor,
    noise: Tensor,
    mode: str,
    backend: str,
) -> _Outputs:
    """``chunked.forward``, or that of the kernels."""
    inputs = (query, codebook, bias, extra, present, keys, temperature, noise, mode)
    if backend == "triton":
        from . import triton_kernels

        outputs = triton_kernels.forward(*inputs)
        if mode == "none":  # the kernel keeps no runner-up, by which to tell where rounding decides
            return *outputs[:4], best_code(query, codebook, bias)[1], *outputs[5:]
        return outputs
    return chunked.forward(*inputs)  # pyright: ignore[reportArgumentType]


@sample_forward.register_fake
def _(query: Tensor, codebook: Tensor, *_: Any) -> _Outputs:
    count = query.shape[0]
    return (
        torch.empty_like(query),
        query.new_empty(count),
        query.new_empty(count),
        query.new_empty(codebook.shape[0]),
        query.new_empty(count, dtype=torch.int64),
        query.new_empty(count, dtype=torch.int64),
        query.new_empty(2, count),
    )


@torch.library.custom_op("gmvq::sample_backward", mutates_args=())
def sample_backward(
    grad_mean: Tensor | None,
    grad_second: Tensor | None,
    grad_entropy: Tensor | None,
    grad_aggregate: Tensor | None,
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    temperature: Tensor,
    noise: Tensor,
    entropy: Tensor,
    drawn: Tensor,
    log_totals: Tensor,
    mode: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, codebook, bias and extra; a gradient that is None stands for zeros."""
    grads = (grad_mean, grad_second, grad_entropy, grad_aggregate)
    inputs = (query, codebook, bias, extra, present, keys, temperature, noise)
    saved = (entropy, drawn, log_totals)
    if backend == "triton":
        from . import triton_kernels

        return triton_kernels.backward(grads, *inputs, saved, mode)
    return chunked.backward(grads, *inputs, saved, mode)  # pyright: ignore[reportArgumentType]


@sample_backward.register_fake
def _(
    grad_mean: Tensor | None,
    grad_second: Tensor | None,
    grad_entropy: Tensor | None,
    grad_aggregate: Tensor | None,
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(x) for x in (query, codebook, bias, extra))  # pyright: ignore

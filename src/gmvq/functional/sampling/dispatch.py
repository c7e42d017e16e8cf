"""``mixture_sample``: one entry to the implementations of the sampling operation, and the choice between them."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...errors import check_choice
from ..estimators import Estimator, GumbelSoftmax, StraightThroughGumbel
from .codes import Support
from .dense import Mode, mixture_sample_dense
from .reference import Inputs, MixtureSample, mixture_sample_reference
from .truncated import mixture_sample_truncated

BACKENDS: tuple[str, ...] = ("auto", "reference", "chunked", "triton")
_MODES: dict[type, Mode] = {
    type(None): "none",
    GumbelSoftmax: "soft",
    StraightThroughGumbel: "hard",
}


class Backend(NamedTuple):
    """Which implementation runs, and why."""

    name: Literal["reference", "chunked", "triton"]
    reason: str


def choose_backend(
    requested: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    estimator: Estimator | None,
    support: int | None,
) -> Backend:
    """The implementation for inputs of this kind; it depends on them, on whether triton is installed, and on exporting.

    Raises:
        ValueError: an unknown name, or an explicit choice that cannot run; says why.
    """
    check_choice("backend", requested, BACKENDS)
    obstacles = {
        "reference": "",
        "chunked": _obstacle_to_chunked(estimator, support),
        "triton": _obstacle_to_triton(device, dtype, estimator, support),
    }
    if torch.compiler.is_exporting() and requested != "reference":
        return Backend("reference", "an exported program holds plain operators only")
    if requested == "auto":
        if not obstacles["triton"]:
            return Backend("triton", "CUDA device, float32, a fused estimator")
        if not obstacles["chunked"]:
            return Backend("chunked", obstacles["triton"])
        return Backend("reference", obstacles["chunked"])
    if obstacles[requested]:
        raise ValueError(
            f"backend={requested!r} cannot run: {obstacles[requested]}; backend='auto' takes what can"
        )
    return Backend(requested, "asked for")  # pyright: ignore[reportArgumentType]


def _obstacle_to_chunked(estimator: Estimator | None, support: int | None) -> str:
    """Why the blocks of all codes cannot run; empty if they can. A truncated posterior takes any estimator."""
    if support is not None or type(estimator) in _MODES:
        return ""
    name = type(estimator).__name__
    return (
        f"{name} is not an estimator of gmvq, whose gradients it has built in; backend='reference' takes any"
    )


def _obstacle_to_triton(
    device: torch.device, dtype: torch.dtype, estimator: Estimator | None, support: int | None
) -> str:
    """Why the Triton kernels cannot run; empty if they can."""
    if support is not None:
        return "a truncated posterior (support=k) leaves nothing to fuse after its search"
    if device.type != "cuda":
        return f"the Triton kernels need a CUDA device, the latents are on {device.type}"
    if not _has_triton():
        return "the package triton is not installed"
    if dtype != torch.float32:
        return f"the Triton kernels compute in float32, the latents are {dtype}"
    if _MODES.get(type(estimator)) not in ("none", "soft", "hard"):
        return f"there is no Triton kernel for {type(estimator).__name__}"
    return ""


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def mixture_sample(
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    *,
    estimator: Estimator | None,
    temperature: Tensor,
    noise: Tensor,
    support: Support | None = None,
    backend: Literal["reference", "chunked", "triton"] = "reference",
) -> MixtureSample:
    """Sample codes for N rows and gather the posterior's statistics; differentiable in the first four arguments.

    Noise is a function of the row keys, so that every implementation draws the same sample from the same keys.

    Args:
        query: v = w z, (N, D), float32 or float64.
        codebook: mu, (K, D), same dtype.
        bias: log pi - 1/2 sum_d w_d mu_d^2, (K,).
        extra: e, a number per code, (K,): |mu|^2 for the expected distance, say.
        present: (N,), 1 or 0: which rows the aggregate counts; None for all.
        keys: row keys of the noise, (N, 4), int32, from ``functional.noise.noise_keys``; unused without an estimator.
        estimator: how r is sampled; None: no sample, r is one-hot at the most probable code.
        temperature, noise: tau, and the factor lambda on the Gumbel noise; 0-d tensors.
        support: the codes of each row that q and r live on, from ``find_support``; None for all K.
        backend: name of the implementation; ``choose_backend`` says which can run.
    """
    query = query.contiguous()  # the operators' outputs are laid out like it
    inputs = Inputs(query, codebook, bias, extra, present, keys, temperature.to(query), noise.to(query))
    if backend == "reference":
        return mixture_sample_reference(inputs, estimator, support)
    if support is not None:
        return mixture_sample_truncated(inputs, estimator, support)
    return mixture_sample_dense(inputs, _MODES[type(estimator)], backend)

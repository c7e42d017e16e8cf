"""Tensors of every shape, dtype and layout, with and without masks, for layers and autoencoders; and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from gmvq import GaussianMixtureVQ, GroupedGMVQ, ResidualGMVQ
from gmvq.models import VQAutoencoder, build_autoencoder

_DIM = 4
_MAKE: dict[str, Callable[[], Any]] = {
    "plain": lambda: GaussianMixtureVQ(_DIM, 7),
    "one code": lambda: GaussianMixtureVQ(_DIM, 1),
    "projected": lambda: GaussianMixtureVQ(_DIM, 7, codebook_dim=2, mixture_weights="learned"),
    "residual": lambda: ResidualGMVQ(_DIM, 5, 3),
    "grouped": lambda: GroupedGMVQ(_DIM, 5, 2),
    "heads": lambda: GroupedGMVQ(_DIM, 5, 2, shared_codebook=True),
}


@dataclass(frozen=True)
class Latents:
    """What is drawn: quantizer, leading shape, last axis, dtype, memory layout, value, mask."""

    quantizer: str
    lead: tuple[int, ...]
    dim: int
    dtype: torch.dtype
    layout: str
    value: float
    mask: str

    @property
    def is_good(self) -> bool:
        """Whether the documentation promises an answer."""
        right = self.dim == _DIM and 0 not in self.lead and self.dtype in _FLOATS
        return right and self.value == 0.0 and self.mask in ("none", "some", "all", "nothing")


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LATENTS = st.builds(
    Latents,
    st.sampled_from(sorted(_MAKE)),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from([_DIM] * 8 + [1, 3, 5]),
    st.sampled_from([*_FLOATS, *_FLOATS, torch.int64, torch.bool, torch.complex64]),
    st.sampled_from(["contiguous", "moved", "strided", "expanded"]),
    st.sampled_from([0.0] * 8 + [float("nan"), float("inf"), 1e30]),
    st.sampled_from(["none", "none", "some", "all", "nothing", "wrong shape", "wrong dtype"]),
)


@cache
def quantizer(name: str) -> Any:
    """In eval mode, started on random latents."""
    torch.manual_seed(0)
    built = _MAKE[name]()
    built.init_codebook(torch.randn(64, _DIM))
    return built.eval()


def _tensor(case: Latents) -> Tensor:
    shape = (*case.lead, case.dim)
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator)
    if case.layout == "moved" and values.ndim > 1:
        values = values.movedim(-1, 0).contiguous().movedim(0, -1)
    elif case.layout == "strided":
        values = torch.stack([values, values], -1)[..., 0]
    elif case.layout == "expanded" and values.ndim > 1 and case.lead[0]:
        values = values[:1].expand(shape)
    values = values.to(case.dtype)
    if case.value and values.numel() and case.dtype in _FLOATS:
        values = values.clone()
        values[(0,) * values.ndim] = case.value if case.dtype != torch.float16 or case.value != 1e30 else 6e4
    return values


def _mask(case: Latents) -> Tensor | None:
    generator = torch.Generator().manual_seed(len(case.lead))
    some = torch.rand(case.lead, generator=generator) < 0.5
    return {
        "none": None,
        "some": some,
        "all": torch.ones_like(some),
        "nothing": torch.zeros_like(some),
        "wrong shape": some[None],
        "wrong dtype": some.float(),
    }[case.mask]


def run_latents(case: Latents, folder: Path) -> None:
    """Quantize in eval mode, and compare with look-up, encode and the promises on dtype, shape and masks."""
    layer, latents, mask = quantizer(case.quantizer), _tensor(case), _mask(case)
    try:
        out = layer(latents, mask)
    except (ValueError, TypeError) as error:
        if case.is_good:
            raise AssertionError(f"refused: {error}") from error
        raise
    assert out.quantized.dtype == latents.dtype
    assert out.quantized.shape == latents.shape
    codes = layer.get_codes_from_indices(out.indices).to(latents.dtype)
    assert torch.equal(codes, out.quantized), "decode(indices) is not the eval forward"
    assert torch.equal(layer.encode(latents, mask), out.indices), "encode is not the eval forward"
    assert out.indices.dtype == torch.int64
    if mask is not None:
        assert bool((out.indices[~mask] == -1).all())
        assert bool((out.indices[mask] >= 0).all())
        assert not out.quantized[~mask].any()
        assert torch.equal(layer.encode(latents)[mask], out.indices[mask]), (
            "a mask changes what is not masked"
        )
    flat = layer.encode(latents.reshape(-1, case.dim).contiguous())
    assert mask is not None or torch.equal(flat.reshape(out.indices.shape), out.indices), "layout matters"


@dataclass(frozen=True)
class Batch:
    """Images for an autoencoder: quantizer, shape, dtype of images and weights, memory format, value, mask."""

    quantizer: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    weights: torch.dtype
    channels_last: bool
    value: float
    mask: str

    @property
    def is_good(self) -> bool:
        """Whether the documentation promises an answer."""
        right = len(self.shape) == 4 and self.shape[1] == 1 and self.shape[0] > 0
        right = (
            right and all(size and size % 4 == 0 for size in self.shape[2:]) and self.dtype == self.weights
        )
        return right and self.value == 0.0 and self.mask in ("none", "some")


_SHAPES = st.tuples(st.integers(1, 3), st.just(1), st.sampled_from([4, 8, 12]), st.sampled_from([4, 8, 20]))
BATCHES = st.builds(
    lambda name, shape, kinds, *rest: Batch(name, shape, *kinds, *rest),
    st.sampled_from(sorted(_MAKE)),
    st.one_of(_SHAPES, _SHAPES, _SHAPES, st.lists(st.integers(0, 8), max_size=5).map(tuple)),
    st.one_of(
        st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]).map(
            lambda kind: (kind, kind)
        ),
        st.tuples(st.sampled_from([torch.float32, torch.float64, torch.uint8]), st.sampled_from(_FLOATS[1:])),
    ),
    st.booleans(),
    st.sampled_from([0.0] * 8 + [float("nan"), float("inf")]),
    st.sampled_from(["none", "none", "some", "some", "wrong shape", "wrong dtype"]),
)


@cache
def autoencoder(name: str, weights: torch.dtype) -> VQAutoencoder:
    """A tiny one around a quantizer in float32, in eval mode."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=1, quantizer=_MAKE[name]())
    with torch.no_grad():
        latents = model.encoder(torch.rand(8, 1, 8, 8)).movedim(1, -1)
        model.quantizer.init_codebook(latents)  # pyright: ignore[reportAttributeAccessIssue]
    model.encoder.to(weights)
    model.decoder.to(weights)
    return model.eval()


def run_batch(case: Batch, folder: Path) -> None:
    """Encode and decode, and compare with the eval forward."""
    model = autoencoder(case.quantizer, case.weights)
    images = torch.rand(case.shape, generator=torch.Generator().manual_seed(sum(case.shape)))
    if case.value and images.numel():
        images[(0,) * images.ndim] = case.value
    images = (images * 255).to(case.dtype) if case.dtype == torch.uint8 else images.to(case.dtype)
    if case.channels_last and images.ndim == 4:
        images = images.to(memory_format=torch.channels_last)
    spatial = (*case.shape[:1], *(size // 4 for size in case.shape[2:]))
    some = torch.rand(spatial, generator=torch.Generator().manual_seed(1)) < 0.7
    masks = {"none": None, "some": some, "wrong shape": some[None], "wrong dtype": some.float()}
    mask = masks[case.mask]
    try:
        with torch.no_grad():
            out = model(images, mask)
    except (ValueError, TypeError) as error:
        if case.is_good:
            raise AssertionError(f"refused: {error}") from error
        raise
    indices = model.encode(images, mask)
    assert torch.equal(indices, out.quantizer.indices), "encode is not the eval forward"
    assert torch.equal(model.decode(indices), out.reconstruction), "decode(indices) is not the eval forward"
    assert out.reconstruction.shape == images.shape
    assert out.reconstruction.dtype == case.weights

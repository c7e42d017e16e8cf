"""The quantizers of vector-quantize-pytorch behind the contract; the package is imported when one is built.

The package does the training step, on valid rows alone. Eval is ours: the codebook that its own eval would use is
written out as a (K, D) table, searched and looked up, because its eval differs from its look-up by rounding (SimVQ,
FSQ, LFQ), updates statistics (affine parameters) or starts k-means. Losses are its own, means over values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import import_or_tell
from gmvq.functional.search import best_code

from .base import BaselineQuantizer, Step
from .bridge import VQBridge

#: Options that are not the package's.
_OWN = ("sync_update_v", "alternated_lr", "patch", "width", "regularization_weight")


#: Packages that ``pip install ./bench`` does not bring, as they are of no use without a GPU.
_APART = {"flash_kmeans": "pip install flash-kmeans"}


def peer(module: str) -> ModuleType:
    """Import a module of a rival's package; MissingExtraError where a bare machine lacks it."""
    return import_or_tell(module, _APART.get(module.split(".")[0], "pip install ./bench"))


def _layer(name: str, *args: Any, **settings: Any) -> Any:
    return getattr(peer("vector_quantize_pytorch"), name)(*args, **settings)


class Rows(nn.Module):
    """A layer of rows (1, n, D) for latents of any leading shape: quantized, indices, the sum of its losses."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        quantized, indices, *losses = self.layer(latents.reshape(1, -1, latents.shape[-1]))
        shapes = quantized.view(latents.shape), indices.view(latents.shape[:-1])
        return *shapes, *(loss.sum() for loss in losses)


class PackageQuantizer(BaselineQuantizer):
    """A layer of the package, ``layer(rows[None])`` -> quantized, indices and, but for FSQ, a loss."""

    layer: Any

    def __init__(self, dim: int, codebook_size: int, layer: nn.Module) -> None:
        super().__init__(dim, codebook_size)
        self.layer = layer

    def _step(self, rows: Tensor) -> Step:
        quantized, indices, *loss = self.layer(rows.to(self.codewords().dtype)[None])
        total = loss[0] if loss else rows.new_zeros(())
        return Step(quantized[0], indices[0].long(), total + 0.0)


class VectorQuantizePeer(PackageQuantizer):
    """``VectorQuantize``: EMA or learnable codebooks, as they stand after a projector or affine parameters.

    Args:
        options: those of the package, and sync_update_v: nu of the synchronous update z + sg[e - z] + nu (e - sg[e]) of
            arXiv 2305.08842, added here. The package's own option adds nu (q - sg[q]) of the straight-through result
            q, whose gradient goes to the encoder a second time and never to the codebook. alternated_lr: rate of a
            step of AdamW that the codebook takes in each forward, before the encoder reads it (same paper).
        settings: further ones of the package, which the user does not choose.
    """

    def __init__(self, dim: int, codebook_size: int, options: dict[str, Any], **settings: Any) -> None:
        sync_update_v = options.get("sync_update_v", 0.0)
        if sync_update_v < 0.0:
            raise ValueError(f"sync_update_v must not be negative, got {sync_update_v}")
        settings |= {key: value for key, value in options.items() if key not in _OWN}
        if rate := options.get("alternated_lr"):
            settings["in_place_codebook_optimizer"] = partial(torch.optim.AdamW, lr=rate)
        layer = _layer("VectorQuantize", dim, codebook_size, **settings)
        super().__init__(dim, codebook_size, layer)
        self.codewords_are_latents = not layer.use_cosine_sim
        self.sync_update_v = sync_update_v
        state = layer._codebook
        if state.affine_param:
            # As the package makes them they are None or uninitialised, and a checkpoint of them does not load.
            for key in ("codebook", "batch"):
                state.register_buffer(f"{key}_mean", torch.zeros(1, 1, dim))
                state.register_buffer(f"{key}_variance", torch.ones(1, 1, dim))
                for kind in ("mean", "variance"):
                    state.register_buffer(f"{key}_{kind}_needs_init", torch.tensor(True))

    def codewords(self) -> Tensor:
        state = self.layer._codebook
        embed = state.embed
        if state.vq_bridge is not None:
            embed = state.vq_bridge(embed)
        if state.affine_param:
            ratio = (state.batch_variance.clamp_min(1e-5) / state.codebook_variance.clamp_min(1e-5)).sqrt()
            embed = (embed - state.codebook_mean) * ratio + state.batch_mean
        return embed[0]

    def _search(self, latents: Tensor) -> Tensor:
        if not self.layer.use_cosine_sim:
            return super()._search(latents)
        codewords = self.codewords().detach()
        latents = F.normalize(latents.detach().to(codewords.dtype), dim=-1, eps=1e-6)
        return best_code(latents, codewords, codewords.new_zeros(self.codebook_size))[1]

    def _step(self, rows: Tensor) -> Step:
        step = super()._step(rows)
        quantized, loss = step.quantized, step.loss
        if self.sync_update_v > 0.0:
            codes = F.embedding(step.indices, self.codewords())
            quantized = quantized + self.sync_update_v * (codes - codes.detach())
        if not self.layer.has_commitment_loss:  # then it is a buffer of zero that asks for a gradient
            loss = loss.detach()
        return Step(quantized, step.indices, loss)


class SimVQPeer(PackageQuantizer):
    """A linear map of a frozen codebook; with lambda of DimVQ, the weight of ``dimensional_collapse(codewords)``."""

    regularization_weight: float = 0.0

    def codewords(self) -> Tensor:
        return self.layer.codebook

    def _step(self, rows: Tensor) -> Step:
        step = super()._step(rows)
        if not self.regularization_weight:
            return step
        collapse = dimensional_collapse(self.codewords())
        loss = step.loss + self.regularization_weight * collapse
        return Step(step.quantized, step.indices, loss, {"collapse": collapse})


def dimensional_collapse(codewords: Tensor) -> Tensor:
    r"""Mean squared element of C^T C beside its diagonal, where the rows of C are the codewords (K, D), normalised.

    Source: Zhang et al., "Unveiling and addressing dimensional collapse in vector quantization models via codebook
    regularization", ICML 2026; normalisation and mean as in their public code.
    """
    rows = F.normalize(codewords, dim=-1)
    gram = rows.T @ rows
    return (gram - gram.diag().diag()).square().sum() / (gram.shape[0] * max(1, gram.shape[0] - 1))


class ImplicitPeer(PackageQuantizer):
    """FSQ, FSP, LFQ and BSQ: the codebook is computed, and so is the index."""

    codewords_are_latents = False

    def codewords(self) -> Tensor:
        layer = self.layer
        kind = type(layer).__name__
        if kind == "FSQ":
            return layer.project_out(layer.implicit_codebook)
        if kind == "FSP":
            return layer.indices_to_codes(torch.arange(self.codebook_size, device=layer._levels.device))
        return layer.project_out(layer.maybe_l2norm(layer.codebook))

    @torch.no_grad()
    def _search(self, latents: Tensor) -> Tensor:
        return self.layer(latents.to(self.codewords().dtype)[None])[1][0].long()


@dataclass(frozen=True)
class Peer:
    """Builds a layer of the package; ``defaults`` are the options that the user may choose."""

    make: Callable[[int, int, dict[str, Any]], PackageQuantizer]
    defaults: dict[str, Any]

    def __call__(self, dim: int, codebook_size: int, **options: Any) -> PackageQuantizer:
        return self.make(dim, codebook_size, {**self.defaults, **options})


def _vq(defaults: dict[str, Any], **settings: Any) -> Peer:
    return Peer(partial(VectorQuantizePeer, **{"rotation_trick": False, **settings}), defaults)


def _simvq(dim: int, codebook_size: int, options: dict[str, Any]) -> PackageQuantizer:
    weight = options.get("regularization_weight", 0.0)
    if weight < 0.0:
        raise ValueError(f"regularization_weight must not be negative, got {weight}")
    settings = {key: value for key, value in options.items() if key not in _OWN}
    built = SimVQPeer(dim, codebook_size, _layer("SimVQ", dim, codebook_size, **settings))
    built.regularization_weight = weight
    return built


def _fvq(dim: int, codebook_size: int, options: dict[str, Any]) -> PackageQuantizer:
    bridge = VQBridge(dim, codebook_size, patch=options["patch"], width=options["width"])
    return VectorQuantizePeer(dim, codebook_size, options, vq_bridge=bridge, rotation_trick=False, **_LEARNED)


def power_of_two(codebook_size: int, least: int, what: str) -> int:
    """log2 K, or ValueError."""
    if codebook_size < least or codebook_size & (codebook_size - 1):
        raise ValueError(
            f"{what} needs a codebook_size that is a power of two from {least} on, got {codebook_size}"
        )
    return codebook_size.bit_length() - 1


def fsq_levels(codebook_size: int) -> list[int]:
    """Levels of 8 and 4, as many 8 as possible, whose product is ``codebook_size``."""
    bits = power_of_two(codebook_size, 4, "fsq, with levels of 8 and 4,")
    eights = next(n for n in range(bits // 3, -1, -1) if (bits - 3 * n) % 2 == 0)
    return [8] * eights + [4] * ((bits - 3 * eights) // 2)


def _scalar(kind: str, dim: int, codebook_size: int, options: dict[str, Any]) -> PackageQuantizer:
    levels = options["levels"]
    chosen = fsq_levels(codebook_size) if levels is None else list(levels)
    product = math.prod(chosen)
    if product != codebook_size:
        raise ValueError(f"{kind}: levels {chosen} make {product} codes, not codebook_size = {codebook_size}")
    peer = ImplicitPeer(dim, codebook_size, _layer(kind, dim=dim, **{**options, "levels": chosen}))
    peer.options = {"levels": chosen}
    return peer


def _binary(dim: int, codebook_size: int, options: dict[str, Any], **settings: Any) -> PackageQuantizer:
    power_of_two(codebook_size, 2, "a quantizer of signs")
    layer = _layer("LFQ", dim=dim, codebook_size=codebook_size, **options, **settings)
    return ImplicitPeer(dim, codebook_size, layer)


_EMA = {"ema_update": True, "learnable_codebook": False}
_LEARNED = {"ema_update": False, "learnable_codebook": True}
_COMMITMENT = {"commitment_weight": 1.0}
_REPLACED = {"kmeans_init": True, "threshold_ema_dead_code": 2}
_MOVING = {**_COMMITMENT, "decay": 0.8}
_AFFINE = {"sync_update_v": 0.2, "affine_param_batch_decay": 0.99, "affine_param_codebook_decay": 0.9}
_SIMVQ = {**_COMMITMENT, "input_to_quantize_commit_loss_weight": 0.25, "rotation_trick": True}
_SIGNS = {"entropy_loss_weight": 0.1, "commitment_loss_weight": 0.0, "diversity_gamma": 1.0}

#: By name, with the paper that each comes from.
PEERS: dict[str, Peer] = {
    # van den Oord et al., arXiv 1711.00937: a learnable codebook, straight-through. The package gives the codebook's
    # term the same weight as the encoder's; under Adam the codebook, which has no other gradient, does not notice.
    "vq": _vq(_COMMITMENT, **_LEARNED),
    # Appendix A.1: a codebook of moving averages.
    "vq-ema": _vq(_MOVING, **_EMA),
    # Zeghidour et al., arXiv 2107.03312: moving averages, k-means start, dead codes replaced by latents of the batch.
    "vq-ema-replace": _vq(_MOVING | _REPLACED, **_EMA),
    # Yu et al., arXiv 2110.04627: the same on the unit sphere; the decoder gets unit vectors.
    "vq-cosine": _vq(_MOVING | _REPLACED, use_cosine_sim=True, **_EMA),
    # Fifty et al., arXiv 2410.06424: the rotation trick in the place of straight-through.
    "vq-rotation": _vq(_MOVING | _REPLACED, rotation_trick=True, **_EMA),
    # Huh et al., arXiv 2305.08842: a learnable codebook moved with the latents' mean and spread (running statistics),
    # synchronous update; replaced codes are not mapped back through the affine parameters.
    "vq-affine": _vq(_COMMITMENT | _AFFINE | _REPLACED, affine_param=True, **_LEARNED),
    # The same, optimised in turn with the networks.
    "vq-affine-alternated": _vq(
        {**_COMMITMENT, **_AFFINE, **_REPLACED, "alternated_lr": 1e-3}, affine_param=True, **_LEARNED
    ),
    # Vali et al., arXiv 2509.26469: the code reached along a noisy direction at the exact distance; no loss of its own.
    "diveq": _vq({"directional_reparam_variance": 5e-3, **_REPLACED}, directional_reparam=True, **_LEARNED),
    # Zhu et al., arXiv 2411.02038: a frozen random codebook through a learned linear map.
    "simvq": Peer(_simvq, _SIMVQ),
    # Zhang et al., ICML 2026 (jackD/DimVQ): SimVQ, its codebook kept from collapsing to a subspace.
    "dimvq": Peer(_simvq, {**_SIMVQ, "regularization_weight": 1e-3}),
    # Chang et al., arXiv 2509.10140: a learnable codebook through a small transformer, which is written here.
    "fvq": Peer(_fvq, {**_COMMITMENT, "patch": 4, "width": 64}),
    # Mentzer et al., arXiv 2309.15505: rounding of a few bounded features; ``levels`` must have the product K.
    "fsq": Peer(partial(_scalar, "FSQ"), {"levels": None}),
    # Zhai et al., arXiv 2602.17133: features made nearly uniform, then put to the middle of their bin with probability
    # ``quantize_rate``, else moved by half a bin at most. The package draws for each feature, the paper for a pass.
    "fsp": Peer(partial(_scalar, "FSP"), {"levels": None, "quantize_rate": 0.5}),
    # Yu et al., arXiv 2310.05737: the signs of log2 K features, with an entropy penalty.
    "lfq": Peer(_binary, _SIGNS),
    # Zhao et al., arXiv 2406.07548: the same on the unit sphere, whose corners the codes are.
    "bsq": Peer(partial(_binary, spherical=True), _SIGNS),
}

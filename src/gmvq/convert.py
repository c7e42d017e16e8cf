r"""Trained codebooks of other libraries as layers of this one, with the same indices and the same quantized values.

Theirs takes the code at the least distance, so the mixture gets uniform weights and one precision. What makes values
equal to the last bit: latents are not standardised by a mean (``standardize=False``), the scale is a power of two, and
``units="latents"``; so neither a latent nor a code is rounded. A codebook of cosine similarity becomes one of unit
vectors: at equal length of all codes the nearest code is the one at the least angle, whatever the latent's length.

Indices are equal but for latents that are equally far from two codes within the rounding of float32. There theirs
depend on how a matrix product rounds; this package's search is exact.

Nothing of the other libraries is imported: modules are read by their attributes, checkpoints by their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantizers import ChannelsFirst, GaussianMixtureVQ, GroupedGMVQ, Quantizer, ResidualGMVQ

#: Options of every converted mixture.
_OPTIONS: dict[str, Any] = {"standardize": False, "units": "latents", "start_after": 0}
#: Where checkpoints keep the codebook, the most telling first: diffusers, taming, LlamaGen; taming's EMA and Gumbel.
_KEYS = ("quantize.embedding.weight", "quantize.embedding", "quantize.embed.weight")


@torch.no_grad()
def from_vector_quantize(module: nn.Module, *, inner: bool = False) -> Quantizer | ChannelsFirst:
    """A quantizer of vector-quantize-pytorch as a layer of this package.

    EMA, learnable, cosine and affine codebooks (the last move with every batch there, in eval too); heads with one
    codebook or with several. Indices are (..., n G) where theirs are (..., n), (..., heads) or (G, ..., n); images and
    (B, D, T) are read by ``ChannelsFirst``.

    Args:
        module: a ``VectorQuantize``, ``ResidualVQ`` or ``GroupedResidualVQ``, trained; it is read, not changed.
        inner: of a module with ``project_in`` and ``project_out``, convert what is between them, and keep the two
            in your network: ``module.project_out(quantizer(module.project_in(x)).quantized)``.

    Raises:
        TypeError: a module of another class.
        ValueError: what has no counterpart here; the message says what it is.
    """
    kind = type(module).__name__
    builders = {
        "VectorQuantize": _single,
        "ResidualVQ": _residual,
        "GroupedResidualVQ": _grouped_residual,
    }
    if kind not in builders:
        raise TypeError(
            f"from_vector_quantize takes a VectorQuantize, ResidualVQ or GroupedResidualVQ, got {kind}; lookup-free "
            "and finite scalar quantizers have no codebook to convert"
        )
    other: Any = module
    parts: list[Any] = [other] if kind != "GroupedResidualVQ" else list(other.rvqs)
    if any(part.has_projections for part in parts) and not inner:
        raise ValueError(
            f"this {kind} has project_in and project_out, which have biases that no layer here has: pass inner=True to "
            "convert what is between them, and call module.project_in and module.project_out around it"
        )
    channels_first = _channels_first(other, parts)
    built = builders[kind](other).eval()
    return ChannelsFirst(built) if channels_first else built


def from_state_dict(state: Mapping[str, Any], *, cosine: bool | None = None) -> ChannelsFirst:
    """The quantizer of a checkpoint of diffusers' ``VQModel``, taming-transformers, latent-diffusion or LlamaGen.

    Read are the codebook's key, under any prefix (``first_stage_model.``), inside ``state_dict`` or ``model`` where
    there is one. Encoder, decoder and the two 1x1 convolutions around the quantizer are not: they stay in the model.

    Args:
        state: name -> tensor, as ``safetensors.torch.load_file``, or ``torch.load(..., weights_only=True)`` gives it.
        cosine: whether their model normalises latents and codes (LlamaGen's ``codebook_l2_norm``, ViT-VQGAN); None:
            where the checkpoint has LlamaGen's ``quantize.codebook_used``.

    Raises:
        ValueError: no codebook, or that of a Gumbel quantizer, whose codes are not the nearest ones.

    Example:
        >>> quantizer = from_state_dict({"quantize.embedding.weight": torch.randn(16, 4)})
        >>> quantizer.encode(torch.randn(1, 4, 8, 8)).shape
        torch.Size([1, 8, 8])
    """
    for outer in ("state_dict", "model"):
        if isinstance(state.get(outer), Mapping):
            state = state[outer]
    names = [name for key in _KEYS for name in state if name == key or name.endswith(f".{key}")]
    tensors = [name for name in names if isinstance(state[name], Tensor) and state[name].ndim == 2]
    if not tensors:
        raise ValueError(
            f"no codebook in this checkpoint: none of {', '.join(_KEYS)} is among its {len(state)} keys, such as "
            f"{', '.join(map(str, list(state)[:5]))}"
        )
    prefix = tensors[0][: tensors[0].rindex("quantize.")]
    if f"{prefix}quantize.proj.weight" in state:
        raise ValueError(
            "this is a Gumbel quantizer (quantize.proj): its codes are the largest outputs of a convolution, not the "
            "nearest codewords, and a mixture cannot have the same indices"
        )
    if cosine is None:
        cosine = f"{prefix}quantize.codebook_used" in state
    codes = state[tensors[0]].detach().float()
    codes = F.normalize(codes, dim=-1) if cosine else codes
    return ChannelsFirst(_filled(GaussianMixtureVQ(codes.shape[1], len(codes), **_OPTIONS), [codes]).eval())


def _codes(module: Any) -> Tensor:
    """Effective codes (heads, K, D) of a ``VectorQuantize``, as its eval forward compares latents with them."""
    book = module._codebook
    if not bool(book.initted):
        raise ValueError("this module has not started its codebook (kmeans_init): train it first")
    codes = book.embed.detach().float()
    if book.vq_bridge is not None:
        codes = book.vq_bridge(codes).detach()
    if book.affine_param:
        if book.batch_mean is None:
            raise ValueError("this module has affine parameters that no batch has set: train it first")
        ratio = book.batch_variance.clamp(min=1e-5).sqrt() / book.codebook_variance.clamp(min=1e-5).sqrt()
        codes = (codes - book.codebook_mean) * ratio + book.batch_mean
    if book.use_cosine_sim and not torch.allclose(codes.norm(dim=-1), codes.new_ones(()), atol=1e-4):
        raise ValueError(
            "the codes of a codebook of cosine similarity must have length one; normalise module.codebook first"
        )
    return codes


def _single(module: Any) -> Quantizer:
    codes = _codes(module)
    heads, size, dim = module.heads, *codes.shape[-2:]
    if heads == 1:
        return _filled(GaussianMixtureVQ(dim, size, **_OPTIONS), codes)
    shared = not module.separate_codebook_per_head
    return _filled(GroupedGMVQ(dim * heads, size, heads, shared_codebook=shared, **_OPTIONS), codes)


def _residual(module: Any) -> ResidualGMVQ:
    if module.implicit_neural_codebook:
        raise ValueError(
            "implicit neural codebooks (QINCo) depend on the codes before and have no counterpart"
        )
    codes = [_codes(layer)[0] for layer in module.layers]
    options = {"shared_codebook": module.shared_codebook, **_levels(module)}
    return _filled(ResidualGMVQ(codes[0].shape[-1], [len(own) for own in codes], **options), codes)


def _grouped_residual(module: Any) -> GroupedGMVQ:
    groups = [_residual(group) for group in module.rvqs]
    first = groups[0]
    built = GroupedGMVQ(module.dim, list(first.codebook_sizes), len(groups), **_levels(module.rvqs[0]))
    built.layers = nn.ModuleList(groups)
    return built


def _levels(module: Any) -> dict[str, Any]:
    """Options of a ``ResidualVQ`` that have a counterpart."""
    return {
        "level_dropout": module.quantize_dropout,
        "min_levels": min(module.quantize_dropout_cutoff_index + 1, module.num_quantizers),
        "beam": module.eval_beam_size or 1,
        **_OPTIONS,
    }


def _filled(built: Any, codes: Iterable[Tensor]) -> Any:
    """A layer with the codes (K, D) of each of its mixtures, on their device."""
    for mixture, own in zip(getattr(built, "mixtures", [built]), codes, strict=True):
        mixture.to(own.device).set_codebook(own)
    return built


def _channels_first(module: Any, parts: list[Any]) -> bool:
    """Whether their latents are (B, D, ...)."""
    first = parts[0].layers[0] if hasattr(parts[0], "layers") else parts[0]
    spatial = first.accept_image_fmap or first.accept_3d_fmap or getattr(module, "accept_image_fmap", False)
    return bool(spatial or not first.channel_last)

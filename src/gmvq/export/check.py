"""Exported against eager: indices equal but for ties of floating-point rounding, images equal within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .graphs import EncoderGraph, Signature

if TYPE_CHECKING:
    from ..models import VQAutoencoder
    from .files import Exported

#: Largest difference of a decoded value in [0, 1]: a fortieth of a step of 8-bit images.
IMAGE_TOLERANCE = 1e-4
#: Noise of a latent, in units of the latents' root mean square, under which a tied choice flips: about a hundred
#: roundings of float32, what the sums of a convolution in another order can add up to.
TIE_NOISE = 1e-5
#: Roundings of a logit, in units of float32's, that count beside it (see ``_rounding``), and the most they can add.
_LOGIT_ROUNDINGS, _MOST_NOISE = 2.0, 1e-3
_TIE_DRAWS, _MOST_DIFFERING = 64, 1024


class ExportMismatchError(ValueError):
    """What was exported does not compute what the model computes."""


@dataclass
class Agreement:
    """What was compared and found.

    Attributes:
        shapes: of the images, each once.
        images, indices: numbers compared.
        differing: indices that differ, all of them ties (else the export is refused).
        largest_image_difference: over all decoded values, with values in [0, 1].
        source: which images.
    """

    source: str
    shapes: list[list[int]] = field(default_factory=list)
    images: int = 0
    indices: int = 0
    differing: int = 0
    largest_image_difference: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields with the tolerances, of types that JSON has."""
        return {**asdict(self), "tie_noise": TIE_NOISE, "image_tolerance": IMAGE_TOLERANCE}


def compare(
    model: VQAutoencoder,
    exported: Exported,
    signature: Signature,
    images: Iterable[Tensor] | None = None,
    *,
    source: str = "",
) -> Agreement:
    """Run both over images of several batch sizes and sizes, and over all of ``images`` at their own size.

    Two choices of a code count as a tie where eager itself takes the exported one once its latent is moved by noise of
    the size of rounding (``TIE_NOISE`` and ``_rounding``), or where the two codewords are equal to that precision.

    ``images`` are batches (B, C, *size) in [0, 1], of which the first is also scaled to the other sizes; None: smooth
    random ones. ``source`` says for the record what they are.
    """
    found = Agreement(source or ("images passed" if images is not None else "smooth random images"))
    for batch in _batches(signature, images):
        _compare(model, exported, batch, found)
    return found


def _batches(signature: Signature, images: Iterable[Tensor] | None) -> Iterator[Tensor]:
    """The images in several shapes, then as they are, cut to a multiple of the step."""
    step, axes = signature.downsample, signature.spatial_dims
    rest = iter(images if images is not None else ())
    first = next(rest, None)
    first = _smooth(8, signature) if first is None else first
    for count, *sizes in ((1, 2, 2, 2), (2, 8, 8, 4), (3, 5, 12, 2), (8, 4, 3, 3)):
        some = first[torch.arange(count) % first.shape[0]].float().cpu()
        yield _scaled(some, [step * (size + signature.least - 2) for size in sizes[:axes]])
    for batch in (first, *rest):
        sizes = [size // step * step for size in batch.shape[2:]]
        if min(sizes) >= signature.minimum_size:
            cut = (..., *(slice(size) for size in sizes))
            yield batch.float().cpu()[cut].contiguous()


def _smooth(count: int, signature: Signature) -> Tensor:
    """Random fields from coarse to fine: (count, C, *size)."""
    generator = torch.Generator().manual_seed(0)
    sizes = [8 * signature.downsample] * signature.spatial_dims
    total = torch.zeros(count, signature.channels, *sizes)
    for level, weight in ((1, 0.5), (3, 0.3), (8, 0.2)):
        coarse = torch.rand(count, signature.channels, *[level] * signature.spatial_dims, generator=generator)
        total += weight * _scaled(coarse, sizes)
    return total


def _scaled(images: Tensor, sizes: list[int]) -> Tensor:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sizes)]
    return F.interpolate(images, size=sizes, mode=mode, align_corners=False)


@torch.no_grad()
def _compare(model: VQAutoencoder, exported: Exported, images: Tensor, found: Agreement) -> None:
    expected, indices = model.encode(images), exported.encode(images)
    where = f"on images of shape {tuple(images.shape)}"
    if indices.shape != expected.shape or indices.dtype != expected.dtype:
        raise ExportMismatchError(
            f"the exported encoder gives {indices.dtype} {tuple(indices.shape)} in place of {expected.dtype} "
            f"{tuple(expected.shape)} {where}; nothing was kept"
        )
    differs = expected != indices
    if differs.any():
        wrong = _not_tied(model, images, expected, indices)
        if wrong:
            raise ExportMismatchError(
                f"{wrong} of {math.prod(expected.shape[: images.ndim - 1])} positions get another code from the "
                f"exported encoder {where}, and they are no ties of rounding; nothing was kept"
            )
    restored, again = model.decode(expected), exported.decode(expected)
    error = float((restored - again).abs().max()) if again.shape == restored.shape else math.inf
    if not error <= IMAGE_TOLERANCE:
        raise ExportMismatchError(
            f"the exported decoder differs by {error:.2g} from the model's {where}, where at most "
            f"{IMAGE_TOLERANCE:g} is rounding; nothing was kept"
        )
    if list(images.shape) not in found.shapes:
        found.shapes.append(list(images.shape))
    found.images += images.shape[0]
    found.indices += expected.numel()
    found.differing += int(differs.sum())
    found.largest_image_difference = max(found.largest_image_difference, error)


def _not_tied(model: VQAutoencoder, images: Tensor, expected: Tensor, indices: Tensor) -> int:
    """How many of the positions where the two differ are no tie."""
    latents = EncoderGraph(model).latents(images)
    differs = (expected != indices).reshape(*latents.shape[:-1], -1).any(-1)
    count = int(differs.sum())
    if count > _MOST_DIFFERING:  # no rounding does that
        return count
    codes = [model.quantizer.get_codes_from_indices(choice) for choice in (expected, indices[differs])]
    unit, read = (values.square().mean().sqrt().clamp_min(1e-30) for values in (latents, codes[0]))
    unsure, ours, theirs = latents[differs] / unit, codes[0][differs] / read, codes[1] / read
    noise = (TIE_NOISE + _rounding(unsure, ours, theirs))[:, None].clamp_max(_MOST_NOISE)
    tied = ((ours - theirs).abs() <= TIE_NOISE).all(-1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_TIE_DRAWS):
        moved = model.quantizer.encode(
            unit * (unsure + noise * torch.randn(unsure.shape, generator=generator))
        )
        tied |= (moved == indices[differs]).reshape(count, -1).all(-1)
    return int((~tied).sum())


def _rounding(latents: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""How far (N,) a latent moves while the logits of two codewords change by their rounding.

    Latents and codewords are in units of their root mean squares.
    A logit holds w z.mu, which float32 rounds by about u w |z| |mu|, u = 2^-23; moving z by d changes the difference of
    two logits by up to w d |mu_1 - mu_2|. The two are equal at d = u |z| |mu| / |mu_1 - mu_2|.
    """
    apart = (first - second).square().sum(-1).sqrt().clamp_min(1e-30)
    norms = [values.square().sum(-1).sqrt() for values in (latents, first)]
    return _LOGIT_ROUNDINGS * torch.finfo(torch.float32).eps * norms[0] * norms[1] / apart

"""One picture as the tokenizer sees it: read, encoded, decoded, measured, and its maps as pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.decode import decode
from ..data.photos import open_photos
from ..data.splits import Wanted
from ..evaluation.batches import check_codes
from ..evaluation.evaluate import latents_of
from ..evaluation.maps import code_colours
from ..evaluation.metrics import CodebookMetrics, per_image_mse, psnr, rates
from ..evaluation.pictures import Picture, colour_map, from_pixels, grown, pad_to_multiple
from ..models.interface import device_of, evaluating, networks_of
from ..quantizers import GaussianMixtureVQ

if TYPE_CHECKING:
    from ..models import VQAutoencoder

#: Limits of what is uploaded: the file, and the longer side of what is encoded; larger pictures are scaled down.
MAX_BYTES, MAX_SIDE = 20 * 2**20, 768
#: Entries of one block of the posterior over all codes.
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Encoded:
    """A picture and its tokens.

    Attributes:
        image: (C, H, W) in [0, 1].
        latents: (h, w, D) of the encoder; H and W are padded to whole positions before.
        indices: (h, w), int64.
        log_variance: (h, w), log s_c^2 of the codes of the picture; a painted code does not change it.
    """

    image: Tensor
    latents: Tensor
    indices: Tensor
    log_variance: Tensor


def check_model(model: VQAutoencoder) -> None:
    """Raise ValueError unless the model is of pictures, with networks of gmvq and one code for each position."""
    networks = networks_of(model)
    if not networks:
        raise ValueError(
            "the pages read scale and channels from networks of build_networks, and these are others"
        )
    if networks["spatial_dims"] != 2:
        raise ValueError("the pages show pictures, and this model is of signals; use gmvq reconstruct")
    if not isinstance(model.quantizer, GaussianMixtureVQ):
        raise ValueError(
            "the pages show one code for each position, and a "
            f"{type(model.quantizer).__name__} has several; use gmvq reconstruct"
        )


def mixture_of(model: VQAutoencoder) -> GaussianMixtureVQ:
    """The quantizer of a model that ``check_model`` accepts."""
    assert isinstance(model.quantizer, GaussianMixtureVQ)
    return model.quantizer


def downsample_of(model: VQAutoencoder) -> int:
    """Pixels for each position, along each axis."""
    return int(networks_of(model)["downsample"])


def channels_of(model: VQAutoencoder) -> int:
    """1 for grey, 3 for colour."""
    return int(networks_of(model)["channels"])


def read_picture(file: Path, channels: int, max_side: int = MAX_SIDE) -> Tensor:
    """Read a file of any format of ``gmvq.data``, upright, scaled down to ``max_side``: (C, H, W) in [0, 1]."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"the file has {size / 2**20:.1f} MB, and the limit is {MAX_BYTES // 2**20} MB; make it smaller"
        )
    picture = decode(file, channels)
    picture.thumbnail((max_side, max_side))
    return from_pixels(picture)


@cache
def example_picture(channels: int, side: int = 512) -> Tensor:
    """A photograph of the built-in test split, (C, side, side): an astronaut, by NASA, in the public domain."""
    source = open_photos(Wanted("test", side, channels))
    names = [source.name(index) for index in range(len(source))]
    picture = source.image(names.index("astronaut.png"))
    assert not isinstance(picture, torch.Tensor)
    return from_pixels(picture.resize((side, side)))  # pyright: ignore[reportAttributeAccessIssue]


def encode(model: VQAutoencoder, image: Tensor) -> Encoded:
    """Turn a picture (C, H, W) in [0, 1] into tokens, of which the last ones also cover repeated edges."""
    padded = pad_to_multiple(image[None], downsample_of(model)).to(device_of(model))
    with evaluating(model), latents_of(model.quantizer) as caught:
        out = model(padded).quantizer
    check_codes(out.indices)
    return Encoded(image, caught[0][0].float().cpu(), out.indices[0].cpu(), out.log_variance[0].float().cpu())


def zoom(encoded: Encoded) -> int:
    """By how much a picture to click on is enlarged, so that small ones can be hit."""
    return max(1, MAX_SIDE // max(encoded.image.shape[-2:]))


def decode_tokens(model: VQAutoencoder, encoded: Encoded) -> Tensor:
    """The picture that the tokens stand for, (C, H, W) in [0, 1], cut to the size of the original."""
    height, width = encoded.image.shape[-2:]
    decoded = model.decode(encoded.indices[None].to(device_of(model)))
    return decoded[0, :, :height, :width].float().cpu().clamp(0.0, 1.0)


def figures(model: VQAutoencoder, encoded: Encoded, reconstruction: Tensor) -> list[tuple[str, str]]:
    """What the tokens keep and what they cost, as names and values to show."""
    height, width = encoded.image.shape[-2:]
    rows, columns = encoded.indices.shape
    codes = CodebookMetrics(model.quantizer.codebook_size)
    codes.update(encoded.indices)
    found = codes.compute()
    rate = rates(
        positions=encoded.indices.numel(),
        pixels=height * width,
        codebook_size=model.quantizer.codebook_size,
        code_entropy=found["code_entropy"],
    )
    mse = float(per_image_mse(reconstruction[None], encoded.image[None]))
    total = rate["bits_per_pixel_fixed"] * height * width / 8
    return [
        ("picture", f"{width} × {height} pixels"),
        ("tokens", f"{columns} × {rows} = {encoded.indices.numel():,}"),
        ("PSNR", f"{psnr(mse):.2f} dB"),
        ("bits per pixel", f"{rate['bits_per_pixel_fixed']:.3f} ({total:,.0f} bytes)"),
        ("bits per pixel, entropy of its codes", f"{rate['bits_per_pixel_entropy']:.3f}"),
        ("codes in it", f"{int(encoded.indices.unique().numel()):,} of {model.quantizer.codebook_size:,}"),
    ]


def colour_table(model: VQAutoencoder) -> Picture:
    """The colours of ``code_colours``, (K, 3), uint8."""
    return (255 * code_colours(model)).round().to(torch.uint8).numpy()


def token_picture(model: VQAutoencoder, encoded: Encoded) -> Picture:
    """Every token as a square in its code's colour, on the scale of ``zoom``."""
    return _grown_to(model, encoded, colour_table(model)[encoded.indices.numpy()])


def uncertainty(model: VQAutoencoder, encoded: Encoded, kind: str) -> tuple[Picture, float, float]:
    """A map of how unsure every code is, with the values of its darkest and its brightest colour.

    ``kind`` is ``"variance"``: log s_c^2 of the chosen code, or ``"entropy"``: H of q(c|x) over all codes, bits.
    """
    values = posterior_entropy(model, encoded) if kind == "entropy" else encoded.log_variance
    low, high = (float(values.flatten().quantile(q)) for q in (0.01, 0.99))
    return _grown_to(model, encoded, colour_map(values, low, high, name="viridis")), low, high


def posterior_entropy(model: VQAutoencoder, encoded: Encoded) -> Tensor:
    """H of q(c|x) at every position, (h, w), bits."""
    quantizer = mixture_of(model)
    latents = encoded.latents.flatten(0, 1).to(device_of(model))
    parts = []
    with torch.no_grad():
        for block in latents.split(max(1, _BLOCK_VALUES // quantizer.codebook_size)):
            logits = quantizer.posterior_logits(block)
            parts.append(-(logits.exp() * logits).nan_to_num(0.0).sum(-1).cpu() / math.log(2.0))
    return torch.cat(parts).view(encoded.indices.shape)


def _grown_to(model: VQAutoencoder, encoded: Encoded, positions: Picture) -> Picture:
    """A picture of one pixel for each position on the scale of ``zoom``, cut to the size of the original."""
    height, width = encoded.image.shape[-2:]
    factor = zoom(encoded)
    return grown(positions, downsample_of(model) * factor)[: height * factor, : width * factor]

r"""From codes to what the decoder reads, as the mixture says it: z ~ N(mu_c, noise^2 / w), and c ~ pi without a prior.

The generative model of GM-VQ is c ~ pi, z | c ~ N(mu_c, diag(1/w)), x | z. ``tokenizer.decode`` takes z = mu_c, which
is ``noise=0`` here; ``noise=1`` is the model's own density, with the precision w that training fitted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import check_indices, check_size
from ..models.interface import decode_latents, device_of, evaluating
from ..objectives.latent_model import LatentModel, MixtureQuantizer


def decode(
    tokenizer: Any, indices: Tensor, *, noise: float = 0.0, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """Decode indices (B, *shape) to images (B, C, ...), on the CPU, with z drawn around the codewords.

    Args:
        tokenizer: a ``VQAutoencoder``; with noise, around a single mixture.
        indices: of codes.
        noise: factor on the standard deviation 1/sqrt(w); 0: z = mu_c, as ``tokenizer.decode``.
        seed: of the noise.
        batch_size: images at a time.

    Raises:
        ValueError: noise is negative, or the quantizer is no single mixture.
    """
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must not be negative, got {noise}")
    device = device_of(tokenizer)
    batches = indices.to(device).split(batch_size)
    if noise == 0:
        return torch.cat([tokenizer.decode(part).float().cpu() for part in batches])
    if not isinstance(tokenizer.quantizer, MixtureQuantizer):
        raise ValueError(
            f"z ~ N(mu_c, 1/w) is a mixture's: {type(tokenizer.quantizer).__name__} has none of its own; use noise 0"
        )
    check_indices(indices, len(tokenizer.quantizer.codebook))
    if indices.numel() and int(indices.min()) < 0:
        raise ValueError("indices hold masked positions (-1), around which there is no density to draw from")
    model = LatentModel.of(tokenizer.quantizer)
    generator = torch.Generator(device).manual_seed(seed)
    deviation = noise * (-0.5 * model.log_precision).exp()
    images = []
    with evaluating(tokenizer):
        for part in batches:
            means = model.codebook[part]
            z = means + deviation * torch.randn(
                means.shape, generator=generator, device=device, dtype=means.dtype
            )
            images.append(decode_latents(tokenizer, model.unstandardized(z)).float().cpu())
    return torch.cat(images)


def mixture_indices(tokenizer: Any, count: int, shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """c ~ pi, each position by itself: the mixture's own ancestral sampling, (count, *shape).

    Raises:
        ValueError: the quantizer is no single mixture.
    """
    if not isinstance(tokenizer.quantizer, MixtureQuantizer):
        raise ValueError(f"c ~ pi is a mixture's: {type(tokenizer.quantizer).__name__} has no pi of its own")
    check_size("count", count)
    device = device_of(tokenizer)
    with torch.no_grad():
        pi = tokenizer.quantizer.log_weights().float().exp()
    generator = torch.Generator(device).manual_seed(seed)
    numbers = torch.Size((count, *shape)).numel()
    return torch.multinomial(pi, numbers, replacement=True, generator=generator).view(count, *shape)

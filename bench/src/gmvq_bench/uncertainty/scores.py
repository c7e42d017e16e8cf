"""How sure a tokenizer is of each image and latent position, and the error it makes; images that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmvq.errors import check_choice, check_positive
from gmvq.evaluation.batches import Images, check_codes, description_of, image_batches
from gmvq.evaluation.evaluate import latents_of
from gmvq.evaluation.metrics import per_image_mse
from gmvq.functional.mixture import MIN_VARIANCE
from gmvq.models.interface import decode_latents, device_of, evaluating
from gmvq.objectives import LatentModel, Likelihood, MixtureQuantizer
from gmvq.objectives.bounds import elbo


@dataclass(frozen=True)
class Scores:
    """Scores of N images with P latent positions each, float64 on the CPU.

    Attributes:
        log_variance: log s_c^2(x) of the chosen codes, (N, P), in squared units of the standardised latents; of a
            quantizer that is no single mixture, the same of latents and codewords as its decoder reads them,
            log |z - mu_c|^2 / (2 D).
        entropy: H(q(c|x)), (N, P), nats; None without a mixture.
        error: mean squared error of the pixels around each position, (N, P).
        contrast: variance of the image's own pixels around each position, (N, P): what the image alone says.
        mse: mean squared error of each image, (N,).
        negative_elbo: of the stochastic model, nats per image, (N,), one sample; None without a likelihood.
        dataset: the set's description.
    """

    log_variance: Tensor
    entropy: Tensor | None
    error: Tensor
    contrast: Tensor
    mse: Tensor
    negative_elbo: Tensor | None
    dataset: str = ""

    @property
    def images(self) -> int:
        return self.mse.shape[0]

    def per_image(self) -> dict[str, Tensor]:
        """The scores as one number per image, (N,): means over positions, and those that are of the whole image."""
        values = {
            "log_variance": self.log_variance.mean(1),
            "entropy": None if self.entropy is None else self.entropy.mean(1),
            "contrast": self.contrast.mean(1),
            "mse": self.mse,
            "negative_elbo": self.negative_elbo,
        }
        return {name: value for name, value in values.items() if value is not None}


def image_scores(
    model: nn.Module,
    images: Images,
    *,
    likelihood: Likelihood | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    seed: int = 0,
) -> Scores:
    """Score every image of a set, (N, C, *space) in [0, 1], with a ``VQAutoencoder`` whose codewords are latents.

    ``error`` and ``contrast`` are pooled over the cell of each latent position, so a decoder's view beyond the
    cell counts for its neighbours; the reconstruction is clamped to [0, 1]. ``likelihood`` is that of the ELBO, at its
    stored scale; None leaves it out. ``seed`` is of its samples; the global generators are left alone.
    """
    tokenizer: Any = model
    quantizer = tokenizer.quantizer
    densities = _densities(quantizer)
    likelihood = None if densities is None else likelihood
    generator = torch.Generator(device_of(model)).manual_seed(seed)
    found: list[tuple[Tensor, ...]] = []
    with evaluating(model), latents_of(quantizer) as caught:
        for x in image_batches(images, batch_size=batch_size, device=device_of(model), limit=limit):
            out = tokenizer(x)
            latents = caught.pop()
            caught.clear()
            check_codes(out.quantizer.indices)
            bound = x.new_zeros(x.shape[0])
            if densities is not None and likelihood is not None:
                scale = likelihood.to(x.device)
                terms = elbo(
                    densities, latents, x, partial(decode_latents, tokenizer), scale, generator=generator
                )
                bound = -terms.value
            places = _of_places(quantizer, densities, x, latents, out)
            found.append((*places, per_image_mse(out.reconstruction, x), bound))
    columns = [torch.cat(parts).double().cpu() for parts in zip(*found, strict=True)]
    variance, entropy, error, contrast, mse, bound = columns
    entropy = None if densities is None else entropy
    bound = None if likelihood is None else bound
    return Scores(variance, entropy, error, contrast, mse, bound, description_of(images))


def _of_places(
    quantizer: Any, densities: LatentModel | None, x: Tensor, latents: Tensor, out: Any
) -> tuple[Tensor, ...]:
    """log s^2, H(q(c|x)), squared error and contrast of every latent position, (B, P) each."""
    if densities is None:
        read = getattr(quantizer, "decoder_units", lambda latents: latents)
        distance = (read(latents) - out.quantizer.quantized).square().mean(-1)
        variance, entropy = (distance / 2.0).clamp_min(MIN_VARIANCE).log(), torch.zeros_like(distance)
    else:
        variance, entropy = out.quantizer.log_variance, _entropy(densities, latents)
    grid = latents.shape[1:-1]
    error = _cells((out.reconstruction.clamp(0.0, 1.0) - x).square(), grid).mean(1)
    contrast = (_cells(x.square(), grid) - _cells(x, grid).square()).clamp_min(0.0).mean(1)
    return tuple(values.flatten(1) for values in (variance, entropy, error, contrast))


def _densities(quantizer: Any) -> LatentModel | None:
    """The mixture of a quantizer; None of one that is none."""
    if not isinstance(quantizer, MixtureQuantizer):
        if not getattr(quantizer, "codewords_are_latents", True):
            raise ValueError(
                f"the codewords of {type(quantizer).__name__} are no points among the latents: there is no distance "
                "to them; use a model with GaussianMixtureVQ"
            )
        return None
    return LatentModel.of(quantizer)


def _entropy(densities: LatentModel, latents: Tensor) -> Tensor:
    """H(q(c|x)), latents (B, *P, D) -> (B, *P), nats."""
    z = densities.standardized(latents).reshape(-1, densities.dim).to(densities.codebook)
    log_q = densities.log_responsibilities(z).clamp_min(-1e4)
    return -(log_q.exp() * log_q).sum(-1).reshape(latents.shape[:-1])


def _cells(values: Tensor, grid: torch.Size) -> Tensor:
    """Means over the cell of each latent position, (B, C, *space) -> (B, C, *grid)."""
    pools = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
    if len(grid) not in pools or values.ndim != 2 + len(grid):
        raise ValueError(
            f"images (B, C, *space) need latents on a grid of as many axes, got {tuple(values.shape)} and a grid "
            f"of {tuple(grid)}"
        )
    return pools[len(grid)](values, list(grid) if len(grid) > 1 else grid[0])


class Digits(Dataset[Tensor]):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, as images (channels, size, size) in [0, 1].

    They are enlarged bilinearly, so they are smoother than pictures taken at that size: what tells them apart may be
    that, and not what they show.
    """

    def __init__(self, size: int, channels: int) -> None:
        check_positive("size", size)
        check_choice("channels", str(channels), ("1", "3"))
        found: Any = load_digits()
        images = torch.from_numpy(found.images).float()[:, None] / 16.0
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        self._images = images.expand(-1, channels, -1, -1)
        self.description = f"digits of scikit-learn, 8x8 enlarged to {size}x{size}: {len(self)} images"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]

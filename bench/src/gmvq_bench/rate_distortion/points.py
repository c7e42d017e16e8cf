"""One point of the curve: a tokenizer with some K and beta, a prior on its tokens, and the bytes that these take.

Rates are in bits per pixel (a pixel is one place, whatever its channels), P positions on n pixels:

==================== =========================================================================
``fixed``            P log2 K / n
``aggregate``        P H(qbar) / n, qbar the mean of the posteriors q(c|x) over the test images
``entropy``          P H / n of the histogram of the test images' codes
``prior``            mean of -log2 p(tokens) under the prior / n
``coded``            bits of the range coder / n
==================== =========================================================================
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gmvq.data import open_images
from gmvq.errors import check_choice, check_positive, check_size
from gmvq.evaluation import Evaluation, evaluate
from gmvq.evaluation.batches import image_batches
from gmvq.models.interface import device_of
from gmvq.objectives import GaussianLikelihood
from gmvq.prior import TokenPrior, compress, decompress, fit_prior
from gmvq.prior.coding import payload_bits

from ..comparison.suite import Method, Run, Setting, Suite
from ..comparison.train import train_model
from .codecs import most_images

_SAMPLES = 8  # of the importance-weighted bound


@dataclass(frozen=True)
class Study:
    """What all points share.

    Args:
        data: path or name of ``gmvq.data.open_images``.
        size, channels: of the images.
        downsample, dim, network: of the tokenizer's networks.
        steps, batch_size, lr: of the tokenizer's training.
        prior_steps, prior_size: of the causal transformer on its tokens.
        flip: mirror images while training, tokenizer and prior.
        images: test images at most, spread over the test split; every figure is of these.

    Raises:
        ValueError: a number is out of range.
    """

    data: str = "photos"
    size: int = 32
    channels: int = 3
    downsample: int = 4
    dim: int = 4
    network: str = "tiny"
    steps: int = 400
    batch_size: int = 64
    lr: float = 0.012
    prior_steps: int = 500
    prior_size: str = "tiny"
    flip: bool = True
    images: int = 2000

    def __post_init__(self) -> None:
        for name in ("size", "channels", "downsample", "dim", "steps", "batch_size", "prior_steps", "images"):
            check_size(name, getattr(self, name))
        check_positive("lr", self.lr)
        check_choice("prior_size", self.prior_size, ("tiny", "small", "base"))

    def test_images(self) -> Tensor:
        """The test images, (N, C, H, W)."""
        test = self.open("test")
        count = min(len(test), self.images, most_images(self.size, self.size))
        return torch.stack([test[i * len(test) // count] for i in range(count)])

    def open(self, split: str) -> Any:
        """A split of the data, not augmented."""
        return open_images(self.data, split=split, size=self.size, channels=self.channels, augment=False)


@dataclass(frozen=True)
class Point:
    """K and beta (None: the default schedule), with a seed.

    ``beta`` is the weight of KL(qbar || pi) over the whole of training, a number.
    """

    codebook_size: int
    beta: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_size("codebook_size", self.codebook_size)
        if self.beta is not None and not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must not be negative, got {self.beta}")


def measure_point(study: Study, point: Point, device: str = "cpu") -> dict[str, Any]:
    """Train, encode, fit the prior, code the test images' tokens and decode them again.

    ``bits_per_dimension`` are the negative bounds on log p(x) of ``gmvq.evaluation.evaluate`` over the test images, at
    the likelihood's scale that is best for training images.

    Returns:
        The figures, fit for JSON: point, mse, psnr, ssim, perplexity, information, bits_per_dimension, rates, exact
        (the coded tokens came back unchanged), images.

    Raises:
        DivergedError: the tokenizer's training failed.
    """
    run = describe(study, point)
    model = train_model(run, device)
    test, train = study.test_images(), study.open("train")
    figures = evaluate(
        model,
        test,
        batch_size=256,
        likelihood=likelihood_of(model, train),
        bound_samples=_SAMPLES,
        seed=point.seed,
    )
    tokens = encode(model, train, flip=study.flip)
    prior, prior_steps = _best_prior(tokens, study, point, device)
    held = encode(model, test)
    nats = torch.cat([prior.nats(part).cpu() for part in held.split(256)]).double()
    data = compress(prior, held)
    return {
        "point": asdict(point),
        "images": figures.images,
        "mse": figures.mse,
        "psnr": figures.psnr,
        "ssim": figures.ssim,
        "perplexity": figures.perplexity,
        "information": figures.information,
        "bits_per_dimension": {
            "elbo": figures.elbo,
            "elbo_discrete": figures.elbo_discrete,
            "importance_weighted": figures.importance_weighted,
        },
        "prior_steps": prior_steps,
        "exact": torch.equal(decompress(prior, data), held),
        "coded_bytes": len(data),
        "rates": _rates(figures, float(nats.mean()), payload_bits(data) / len(held)),
    }


def _rates(figures: Evaluation, nats: float, bits: float) -> dict[str, float | None]:
    """Every rate in bits per pixel, from the prior's nats and the coder's bits per image."""
    pixels, aggregate = math.prod(figures.image_shape[1:]), figures.aggregate_entropy
    per_image = None if aggregate is None else figures.positions_per_image * aggregate / math.log(2)
    return {
        "fixed": figures.bits_per_pixel_fixed,
        "aggregate": None if per_image is None else per_image / pixels,
        "entropy": figures.bits_per_pixel_entropy,
        "prior": nats / math.log(2) / pixels,
        "coded": bits / pixels,
    }


def likelihood_of(model: Any, train: Any) -> GaussianLikelihood:
    """A Gaussian with the maximum-likelihood scale of some training images, as they are reconstructed."""
    likelihood = GaussianLikelihood().to(device_of(model))
    some = list(image_batches(train, batch_size=256, device=device_of(model), limit=2048))
    likelihood.observe(torch.cat([model.reconstruct(x) for x in some]), torch.cat(some), momentum=0.0)
    return likelihood


def describe(study: Study, point: Point) -> Run:
    """The tokenizer's training as a run of ``gmvq compare``."""
    setting = Setting(
        study.data,
        study.size,
        point.codebook_size,
        study.steps,
        channels=study.channels,
        network=study.network,
        downsample=study.downsample,
        dim=study.dim,
        batch_size=study.batch_size,
        flip=study.flip,
    )
    beta = {"type": "Constant", "value": float(point.beta)} if point.beta is not None else None
    options = {} if beta is None else {"objective": {"type": "Objective", "beta": beta}}
    method = Method("gm-vq", {"lr": [study.lr]}, options=options)
    suite = Suite("rate-distortion", "", {"one": setting}, {"gm-vq": method})
    return suite.run("one", "gm-vq", {"lr": study.lr}, point.seed, "final")


def encode(model: Any, images: Any, *, flip: bool = False, limit: int | None = None) -> Tensor:
    """The tokens of images, (N, *shape), on the CPU; with ``flip`` then those of the mirror images, (2 N, *shape)."""
    views = (lambda x: x, lambda x: x.flip(-1)) if flip else (lambda x: x,)
    parts = []
    for view in views:
        for x in image_batches(images, batch_size=256, device=device_of(model), limit=limit):
            parts.append(model.encode(view(x)).cpu())
    return torch.cat(parts)


def _best_prior(tokens: Tensor, study: Study, point: Point, device: str) -> tuple[TokenPrior, int]:
    """A prior on the tokens; of a small set, with the number of steps (out of four) best on held-out tokens.

    A transformer learns a few thousand images by heart within some hundred steps. With more than 20 passes over the
    tokens ahead, priors of 1/8, 1/4, 1/2 and all of ``prior_steps`` are compared on the last tenth of the training
    images (and of their mirror images), and the best number is trained on all of them.
    """
    options: dict[str, Any] = {"size": study.prior_size, "seed": point.seed, "dropout": 0.1}
    options["accelerator"] = "gpu" if torch.device(device).type == "cuda" else torch.device(device).type
    steps = study.prior_steps
    if steps * 128 / len(tokens) <= 20:
        options["dropout"] = 0.0
    else:
        copies = 2 if study.flip else 1
        images = tokens.unflatten(0, (copies, -1))
        cut = images.shape[1] * 9 // 10
        seen, held = images[:, :cut].flatten(0, 1), images[:, cut:].flatten(0, 1)
        found = {}
        for number in sorted({max(1, steps // divisor) for divisor in (8, 4, 2, 1)}):
            prior = fit_prior(seen, point.codebook_size, steps=number, **options)
            found[number] = float(torch.cat([prior.nats(part) for part in held.split(256)]).mean())
        steps = min(found, key=lambda number: found[number])
    return fit_prior(tokens, point.codebook_size, steps=steps, **options).to(device), steps

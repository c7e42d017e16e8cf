"""One point of the curve: a tokenizer with some K and beta, a prior on its tokens, and the bytes that these take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..compare.suite import Method, Run, Setting, Suite
from ..compare.train import train_model
from ..data import open_images
from ..errors import check_choice, check_size
from ..evaluation import evaluate
from ..evaluation.batches import device_of, image_batches
from ..objectives import GaussianLikelihood
from ..prior import compress, decompress, fit_prior
from ..prior.coding import payload_bits

_SAMPLES, _BOUNDED = 8, 2000  # of the importance-weighted bound, and images that bounds are taken over


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
        coded: test images whose tokens are truly coded and decoded; for the others the prior's figure stands.

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
    coded: int = 500

    def __post_init__(self) -> None:
        for name in ("size", "channels", "downsample", "dim", "steps", "batch_size", "prior_steps", "coded"):
            check_size(name, getattr(self, name))
        check_choice("prior_size", self.prior_size, ("tiny", "small", "base"))


@dataclass(frozen=True)
class Point:
    """K and beta (None: the default schedule), with a seed.

    ``beta`` is the weight of KL(qbar || pi) over the whole of training, a number.
    """

    codebook_size: int
    beta: float | None = None
    seed: int = 0


def measure_point(study: Study, point: Point, device: str = "cpu") -> dict[str, Any]:
    """Train, encode, fit the prior, code the test images' tokens and decode them again.

    Rates are in bits per pixel (a pixel is one place, whatever its channels), P positions on n pixels:

    ==================== =========================================================================
    ``fixed``            P log2 K / n
    ``aggregate``        P H(qbar) / n, qbar the mean of the posteriors q(c|x) over the test images
    ``entropy``          P H / n of the histogram of the test images' codes
    ``prior``            mean of -log2 p(tokens) under the prior / n, all test images
    ``coded``            bits of the range coder / n, the first ``study.coded`` test images
    ``prior_of_coded``   ``prior`` of those images
    ==================== =========================================================================

    ``bits_per_dimension`` are the negative bounds on log p(x) of ``gmvq.evaluation.evaluate`` over the first test
    images (2,000 at most), at the likelihood's scale that is best for training images.

    Returns:
        The figures, fit for JSON: point, mse, psnr, ssim, perplexity, information, bits_per_dimension, rates, exact
        (the coded tokens came back unchanged), images.

    Raises:
        DivergedError: the tokenizer's training failed.
    """
    run = describe(study, point)
    model = train_model(run, device)
    test = open_images(run["data"], split="test", size=run["size"], channels=run["channels"])
    figures = evaluate(model, test, batch_size=256)
    likelihood = _likelihood(model, run)
    bounds = evaluate(
        model,
        test,
        batch_size=256,
        likelihood=likelihood,
        bound_samples=_SAMPLES,
        limit=_BOUNDED,
        seed=point.seed,
    )
    tokens = encode(model, run, "train", flip=study.flip)
    # In a small set the last 10 % tell when the prior begins to learn by heart; see ``_best_prior``.
    prior, prior_steps = _best_prior(tokens, study, point)
    held = encode(model, run, "test")
    nats = torch.cat([prior.nats(part).cpu() for part in held.split(256)]).double()
    some = held[: study.coded]
    data = compress(prior, some)
    pixels = math.prod(figures.image_shape[1:])
    return {
        "point": asdict(point),
        "images": figures.images,
        "mse": figures.mse,
        "psnr": figures.psnr,
        "ssim": figures.ssim,
        "perplexity": figures.perplexity,
        "information": figures.information,
        "bits_per_dimension": {
            "elbo": bounds.elbo,
            "elbo_discrete": bounds.elbo_discrete,
            "importance_weighted": bounds.importance_weighted,
        },
        "prior_steps": prior_steps,
        "exact": torch.equal(decompress(prior, data), some),
        "coded_images": len(some),
        "coded_bytes": len(data),
        "rates": {
            "fixed": figures.bits_per_pixel_fixed,
            "aggregate": None
            if figures.aggregate_entropy is None
            else figures.positions_per_image * figures.aggregate_entropy / math.log(2) / pixels,
            "entropy": figures.bits_per_pixel_entropy,
            "prior": float(nats.mean()) / math.log(2) / pixels,
            "coded": payload_bits(data) / len(some) / pixels,
            "prior_of_coded": float(nats[: len(some)].mean()) / math.log(2) / pixels,
        },
    }


def _likelihood(model: Any, run: Run) -> GaussianLikelihood:
    """A Gaussian with the maximum-likelihood scale of some training images, as they are reconstructed."""
    images = open_images(
        run["data"], split="train", size=run["size"], channels=run["channels"], augment=False
    )
    likelihood = GaussianLikelihood().to(device_of(model))
    some = list(image_batches(images, batch_size=256, device=device_of(model), limit=_BOUNDED))
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


def encode(model: Any, run: Run, split: str, *, flip: bool = False) -> Tensor:
    """The tokens of a split, (N, *shape), on the CPU; with ``flip`` also those of the mirror images."""
    images = open_images(run["data"], split=split, size=run["size"], channels=run["channels"], augment=False)
    parts = []
    for x in image_batches(images, batch_size=256, device=device_of(model)):
        parts.append(model.encode(x).cpu())
        if flip:
            parts.append(model.encode(x.flip(-1)).cpu())
    return torch.cat(parts)


def _best_prior(tokens: Tensor, study: Study, point: Point) -> tuple[Any, int]:
    """A prior on the tokens; of a small set, with the number of steps (out of four) best on held-out tokens.

    A transformer learns a few thousand images by heart within some hundred steps. With more than 20 passes over the
    tokens ahead, priors of 1/8, 1/4, 1/2 and all of ``prior_steps`` are compared on the last tenth of the training
    tokens, and the best number is trained on all of them.
    """
    options: dict[str, Any] = {"size": study.prior_size, "seed": point.seed, "dropout": 0.1}
    passes = study.prior_steps * 128 / len(tokens)
    if passes <= 20:
        steps, options["dropout"] = study.prior_steps, 0.0
    else:
        cut = len(tokens) * 9 // 10
        found = {}
        for divisor in (8, 4, 2, 1):
            steps = max(1, study.prior_steps // divisor)
            prior = fit_prior(tokens[:cut], point.codebook_size, steps=steps, **options)
            found[steps] = float(torch.cat([prior.nats(part) for part in tokens[cut:].split(256)]).mean())
        steps = min(found, key=lambda number: found[number])
    return fit_prior(tokens, point.codebook_size, steps=steps, **options), steps

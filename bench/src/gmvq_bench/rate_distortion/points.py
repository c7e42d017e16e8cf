"""Points of the curve: a tokenizer with some K and beta, a prior on its tokens, and the bytes that these take.

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

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmvq.data import open_images
from gmvq.errors import check_choice, check_positive, check_size
from gmvq.evaluation import Evaluation, evaluate
from gmvq.evaluation.batches import image_batches
from gmvq.files import inside, remove_leftovers, write_json
from gmvq.models.interface import device_of
from gmvq.objectives import GaussianLikelihood
from gmvq.prior import TokenPrior, compress, decompress, fit_prior
from gmvq.prior.coding import payload_bits

from ..comparison.methods import build_quantizer
from ..comparison.suite import Method, Run, Setting, Suite
from ..comparison.train import train_model
from ..results import environment, read
from .codecs import QUALITIES, codec_curve, most_images

KIND = "gmvq rd"
_POINT = "gmvq rd point"

_SAMPLES = 8  # of the importance-weighted bound


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Study:
    """What all points share; every field but the last is an option of ``gmvq rd``."""

    data: str = _option("photos", "images, as --data.path of gmvq fit")
    size: int = _option(32, "height and width in pixels")
    channels: int = _option(3, "3 (RGB) or 1 (grey)")
    downsample: int = _option(4, "pixels per latent position along each axis")
    dim: int = _option(4, "features per latent position")
    network: str = _option("tiny", "tiny, small or base")
    steps: int = _option(400, "of the tokenizer's training")
    batch_size: int = _option(64, "images per step")
    lr: float = _option(0.012, "learning rate of the tokenizer")
    prior_steps: int = _option(500, "of the prior's training")
    prior_size: str = _option("tiny", "tiny, small or base")
    images: int = _option(2000, "test images at most, spread over the test split")
    #: Mirror images while training, tokenizer and prior.
    flip: bool = True

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
    """K, a constant beta, the weight of KL(qbar || pi) (None: the default), and a seed."""

    codebook_size: int
    beta: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_size("codebook_size", self.codebook_size)
        if self.beta is not None and not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must not be negative, got {self.beta}")


def measure_point(study: Study, point: Point, device: str = "cpu") -> dict[str, Any]:
    """Train, encode, fit the prior, code the test images' tokens and decode them again; the figures, fit for JSON.

    ``bits_per_dimension`` are the negative bounds on log p(x) of ``gmvq.evaluation.evaluate`` over the test images, at
    the likelihood's scale that is best for training images; ``exact``: the coded tokens came back unchanged.
    """
    model = train_model(describe(study, point), device)
    test, train = study.test_images(), study.open("train")
    bound = {"likelihood": likelihood_of(model, train), "bound_samples": _SAMPLES, "seed": point.seed}
    figures = evaluate(model, test, batch_size=256, **bound)
    prior, prior_steps = _best_prior(encode(model, train, flip=study.flip), study, point, device)
    held = encode(model, test)
    data = compress(prior, held)
    bounds = ("elbo", "elbo_discrete", "importance_weighted")
    kept = ("images", "mse", "psnr", "ssim", "perplexity", "information")
    return {
        "point": asdict(point),
        **{name: getattr(figures, name) for name in kept},
        "bits_per_dimension": {name: getattr(figures, name) for name in bounds},
        "prior_steps": prior_steps,
        "exact": torch.equal(decompress(prior, data), held),
        "coded_bytes": len(data),
        "rates": _rates(figures, bits_of_prior(prior, held), payload_bits(data) / len(held)),
    }


def _rates(figures: Evaluation, prior: float, coded: float) -> dict[str, float | None]:
    """Every rate in bits per pixel, from the prior's and the coder's bits per image."""
    pixels, aggregate = math.prod(figures.image_shape[1:]), figures.aggregate_entropy
    per_image = None if aggregate is None else figures.positions_per_image * aggregate / math.log(2)
    return {
        "fixed": figures.bits_per_pixel_fixed,
        "aggregate": None if per_image is None else per_image / pixels,
        "entropy": figures.bits_per_pixel_entropy,
        "prior": prior / pixels,
        "coded": coded / pixels,
    }


def bits_of_prior(prior: TokenPrior, indices: Tensor) -> float:
    """Mean of -log2 p of images under a prior on their tokens."""
    nats = torch.cat([prior.nats(part).cpu() for part in indices.split(256)])
    return float(nats.double().mean()) / math.log(2)


def likelihood_of(model: Any, train: Any) -> GaussianLikelihood:
    """A Gaussian with the maximum-likelihood scale of some training images, as they are reconstructed."""
    likelihood = GaussianLikelihood().to(device_of(model))
    some = list(image_batches(train, batch_size=256, device=device_of(model), limit=2048))
    likelihood.observe(torch.cat([model.reconstruct(x) for x in some]), torch.cat(some), momentum=0.0)
    return likelihood


def describe(study: Study, point: Point) -> Run:
    """The tokenizer's training as a run of ``gmvq compare``."""
    shared = ("data", "size", "steps", "channels", "network", "downsample", "dim", "batch_size", "flip")
    own = {name: getattr(study, name) for name in shared}
    setting = Setting(codebook_size=point.codebook_size, **own)
    beta = {"type": "Constant", "value": float(point.beta)} if point.beta is not None else None
    options = {} if beta is None else {"objective": {"type": "Objective", "beta": beta}}
    method = Method("gm-vq", {"lr": [study.lr]}, options=options)
    suite = Suite("rate-distortion", "", {"one": setting}, {"gm-vq": method})
    return suite.run("one", "gm-vq", {"lr": study.lr}, point.seed, "final")


def encode(model: Any, images: Any, *, flip: bool = False, limit: int | None = None) -> Tensor:
    """The tokens of images, (N, *shape), on the CPU; with ``flip`` then those of the mirror images, (2 N, *shape)."""
    views = (lambda x: x, lambda x: x.flip(-1)) if flip else (lambda x: x,)
    every = {"batch_size": 256, "device": device_of(model), "limit": limit}
    return torch.cat([model.encode(view(x)).cpu() for view in views for x in image_batches(images, **every)])


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
            found[number] = bits_of_prior(fit_prior(seen, point.codebook_size, steps=number, **options), held)
        steps = min(found, key=lambda number: found[number])
    return fit_prior(tokens, point.codebook_size, steps=steps, **options).to(device), steps


def run_study(
    study: Study,
    points: Sequence[Point],
    out: Path,
    *,
    command: str,
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure all points and the codecs; write ``out/rd.json`` and return what is in it.

    Finished points in ``out/points`` are kept and not measured again; ``say`` is told about every one.
    """
    for place in (out, out / "points"):
        remove_leftovers(place)
    images = study.test_images()
    curves = {codec: codec_curve(images, codec) for codec in QUALITIES}
    found = []
    for number, point in enumerate(points, 1):
        file = inside(out, "points", f"{_key(study, point)}.json")
        if file.is_file():
            figures = read(file, _POINT)["figures"]
        else:
            figures = measure_point(study, point, device)
            write_json(file, {"kind": _POINT, "study": asdict(study), "figures": figures})
        found.append(figures)
        beta = "default beta" if point.beta is None else f"beta {point.beta:g}"
        rates = [f"{figures['rates'][name]:.4f} {name}" for name in ("entropy", "prior", "coded")]
        say(
            f"[{number}/{len(points)}] K {point.codebook_size}, {beta}, seed {point.seed}: "
            f"PSNR {figures['psnr']:.2f} dB, bits per pixel: {', '.join(rates)}"
        )
    results = {
        "kind": KIND,
        "command": command,
        "study": asdict(study),
        "data": study.open("test").description,
        "environment": environment(torch.device(device)),
        "points": found,
        "codecs": curves,
        "images": len(images),
    }
    write_json(out / "rd.json", results)
    return results


def _key(study: Study, point: Point) -> str:
    """Digest of what a point's figures depend on, the layer's defaults of today included."""
    quantizer: Any = build_quantizer(describe(study, point))
    text = json.dumps([asdict(study), asdict(point), quantizer.to_config()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""How much of the class of a picture survives the bottleneck: GM-VQ beside its best rivals, at equal rate.

The runs of fashion_mnist-k256 of ``gmvq compare``, with the options chosen there: one network, 400 steps, K = 256 and
P = 49 positions for all, so P log2 K = 392 bits an image. Linear probes and neighbours on the labels of Fashion-MNIST,
fitted to images of the train split and tested on the first of the test split; and rFID by the packaged extractor.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor, nn

from gmvq.evaluation import reconstruction_metrics
from gmvq.evaluation.batches import check_codes, image_batches
from gmvq.models.interface import device_of, evaluating

from ..comparison.train import train_model
from .records import bits_of_histogram, cells_of, images_of, make_records, study_parser, tuned_run

SUITE, SETTING = "fashion_mnist", "fashion_mnist-k256"
METHODS = ("gm-vq", "gm-vq, D = 16", "vq-ema-replace, relative", "cvq", "vq-ema-replace")
PIXELS = "pixels"
#: Strengths of the L2 penalty, as scikit-learn's C, that a probe chooses from on a held-out fifth of its training set.
STRENGTHS = (0.003, 0.03, 0.3, 3.0)
NEIGHBOURS = 5
Labels = NDArray[np.int64]


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("bottleneck", "Probes on codes and latents.", METHODS, range(3))
    parser.add_argument("--train", type=int, default=10000, help="images that probes are fitted to")
    parser.add_argument("--test", type=int, default=5000, help="images that they are tested on")
    parser.add_argument("--fid", type=int, default=2000, help="images of rFID")
    parser.add_argument("--fid_seeds", type=int, nargs="*", default=[0], help="seeds that get it")
    parser.add_argument("--resamples", type=int, default=20, help="half-samples behind rFID's interval")
    options = parser.parse_args(list(argv))
    cells = [{"method": PIXELS, "seed": -1}, *cells_of(seed=options.seeds, method=options.methods)]
    settings = ("train", "test", "fid", "resamples", "steps")
    return make_records("bottleneck", argv, options, settings, cells, measure)


def measure(*, method: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one model and measure it; for the pixels any model does."""
    pixels = method == PIXELS
    run = tuned_run(SUITE, SETTING, METHODS[0] if pixels else method, max(seed, 0), options.steps)
    model, size = train_model(run), run["codebook_size"]
    images = images_of(run, "test")
    train = encode_labelled(model, images_of(run, "train"), limit=options.train)
    test = encode_labelled(model, images, limit=options.test)
    if pixels:
        return {"probe": probe_pixels(train, test)}
    rfid = None
    if seed in options.fid_seeds:
        wanted = {"batch_size": 256, "limit": options.fid, "resamples": options.resamples}
        rfid = reconstruction_metrics(model, images, **wanted).to_dict()
    return {
        "run": run,
        "features": train.latents.shape[1],
        "bits": test.indices.shape[1] * math.log2(size),
        "bits_entropy": bits_of_histogram(size, test.indices),
        "probe": probe(train, test, size),
        "rfid": rfid,
    }


@dataclass(frozen=True)
class Encoded:
    """N labelled images behind the bottleneck: quantized latents (N, P D), codes (N, P), classes (N,), pixels."""

    latents: Tensor
    indices: Tensor
    labels: Tensor
    pixels: Tensor


def encode_labelled(model: nn.Module, dataset: Any, *, limit: int) -> Encoded:
    """Encode the first ``limit`` images of a labelled data set with a ``VQAutoencoder`` around one codebook."""
    tokenizer: Any = model
    found: list[tuple[Tensor, ...]] = []
    with evaluating(model):
        for x in image_batches(dataset, batch_size=256, device=device_of(model), limit=limit):
            out = tokenizer(x).quantizer
            check_codes(out.indices)
            parts = (out.quantized.float(), out.indices, x.float())
            found.append(tuple(part.flatten(1).cpu() for part in parts))
    latents, indices, pixels = (torch.cat(part) for part in zip(*found, strict=True))
    labels = [dataset.label(i) for i in range(len(indices))]
    if any(label is None for label in labels):
        raise ValueError("a probe needs images with labels, and these have none; use a labelled set")
    return Encoded(latents, indices, torch.tensor(labels), pixels)


def probe(train: Encoded, test: Encoded, codebook_size: int) -> dict[str, float]:
    """Accuracies on ``test``, 0 to 1, of classifiers that are fitted to ``train`` alone.

    ``linear_latents``: logistic regression on the quantized latents; ``linear_codes``: on the codes, one-hot for each
    position; ``linear_histogram``: on how often each code occurs; ``knn_...``: neighbours by Euclidean distance, by
    cosine, and by the number of positions with another code.
    """
    labels = train.labels.numpy(), test.labels.numpy()
    latents = train.latents.numpy(), test.latents.numpy()
    codes = train.indices.numpy(), test.indices.numpy()
    counts = histogram(codes[0], codebook_size), histogram(codes[1], codebook_size)
    one_hot = OneHotEncoder(
        categories=[np.arange(codebook_size)] * codes[0].shape[1], handle_unknown="ignore"
    )
    return {
        "linear_latents": linear_accuracy(*latents, *labels, StandardScaler()),
        "linear_codes": linear_accuracy(*codes, *labels, one_hot),
        "linear_histogram": linear_accuracy(*counts, *labels, StandardScaler()),
        "knn_latents": knn_accuracy(*latents, *labels),
        "knn_latents_cosine": knn_accuracy(*latents, *labels, metric="cosine"),
        "knn_codes": knn_accuracy(*codes, *labels, metric="hamming"),
    }


def probe_pixels(train: Encoded, test: Encoded) -> dict[str, float]:
    """The same classifiers on the images themselves: ``linear_pixels`` and ``knn_pixels``."""
    sets = train.pixels.numpy(), test.pixels.numpy(), train.labels.numpy(), test.labels.numpy()
    return {"linear_pixels": linear_accuracy(*sets, StandardScaler()), "knn_pixels": knn_accuracy(*sets)}


def linear_accuracy(train: Any, test: Any, labels: Labels, truth: Labels, features: Any) -> float:
    """Accuracy of multinomial logistic regression with an L2 penalty chosen from ``STRENGTHS``.

    ``train`` (N, F) has the classes ``labels``, ``test`` (M, F) the classes ``truth``; ``features`` is a transformer of
    scikit-learn for both.
    """
    held = np.arange(len(labels)) % 5 == 0

    def fitted(c: float, rows: NDArray[np.bool_]) -> Any:
        model = make_pipeline(features, LogisticRegression(C=c, max_iter=200, tol=1e-3))
        with warnings.catch_warnings():
            # A fit may stop at the limit of its steps: a strength is chosen by what it reaches.
            warnings.simplefilter("ignore")
            return model.fit(train[rows], labels[rows])

    best = max(STRENGTHS, key=lambda c: fitted(c, ~held).score(train[held], labels[held]))
    return float(fitted(best, np.ones_like(held)).score(test, truth))


def knn_accuracy(
    train: Any,
    test: Any,
    labels: Labels,
    truth: Labels,
    *,
    metric: str = "euclidean",
    neighbours: int = NEIGHBOURS,
) -> float:
    """Accuracy of the vote of the nearest training vectors; of equal votes the class of the nearest one wins."""

    def votes(distance: Any) -> Any:
        # The fractions decide between equal votes alone.
        return np.tile(1.0 + 0.25 * 0.5 ** np.arange(neighbours), (len(distance), 1))

    weights: Any = votes
    model: Any = KNeighborsClassifier(neighbours, weights=weights, metric=metric, algorithm="brute")
    return float(model.fit(train, labels).score(test, truth))


def histogram(indices: NDArray[np.int64], codebook_size: int) -> NDArray[np.float32]:
    """How often each code occurs in an image, (N, P) -> (N, K); -1 (masked) is no code."""
    counts = np.zeros((len(indices), codebook_size + 1), dtype=np.float32)
    np.add.at(counts, (np.arange(len(indices))[:, None], indices), 1.0)
    return counts[:, :codebook_size]

"""What is left of an image's class behind the bottleneck: linear probes and neighbours on codes and latents."""

from __future__ import annotations

import warnings
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

from gmvq.evaluation.batches import check_codes, image_batches
from gmvq.models.interface import device_of, evaluating

#: Strengths of the L2 penalty, as scikit-learn's C, that a probe chooses from on a held-out fifth of its training set.
STRENGTHS = (0.003, 0.03, 0.3, 3.0)
NEIGHBOURS = 5
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Labelled images behind the bottleneck, on the CPU.

    Attributes:
        latents: quantized latents of all positions, (N, P D), float32.
        indices: codes, (N, P), int64.
        labels: classes, (N,), int64.
        pixels: the images themselves, (N, C H W), float32.
    """

    latents: Tensor
    indices: Tensor
    labels: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Probe:
    """Accuracies on the test images, 0 to 1.

    Attributes:
        linear_latents: logistic regression on the flattened quantized latents, features standardised.
        linear_codes: the same on the codes, one-hot for each position: P K features.
        linear_histogram: the same on how often each code occurs, K features: where a code stands is lost.
        knn_latents: neighbours by Euclidean distance.
        knn_latents_cosine: neighbours by cosine.
        knn_codes: neighbours by Hamming distance, the number of positions with another code.
    """

    linear_latents: float
    linear_codes: float
    linear_histogram: float
    knn_latents: float
    knn_latents_cosine: float
    knn_codes: float


def encode_labelled(
    model: nn.Module, dataset: Any, *, limit: int | None = None, batch_size: int = 256
) -> Encoded:
    """Encode a labelled data set, or its first ``limit`` images, with a ``VQAutoencoder`` around one codebook."""
    tokenizer: Any = model
    found: list[tuple[Tensor, ...]] = []
    with evaluating(model):
        for x in image_batches(dataset, batch_size=batch_size, device=device_of(model), limit=limit):
            out = tokenizer(x).quantizer
            check_codes(out.indices)
            found.append(
                tuple(part.flatten(1).cpu() for part in (out.quantized.float(), out.indices, x.float()))
            )
    latents, indices, pixels = (torch.cat(part) for part in zip(*found, strict=True))
    labels = [dataset.label(i) for i in range(len(indices))]
    if any(label is None for label in labels):
        raise ValueError("a probe needs images with labels, and these have none; use a labelled set")
    return Encoded(latents, indices, torch.tensor(labels), pixels)


def probe(train: Encoded, test: Encoded, codebook_size: int) -> Probe:
    """Measure what classifiers on codes and latents reach; they are fitted to ``train`` alone."""
    labels = train.labels.numpy(), test.labels.numpy()
    latents = train.latents.numpy(), test.latents.numpy()
    codes = train.indices.numpy(), test.indices.numpy()
    counts = histogram(codes[0], codebook_size), histogram(codes[1], codebook_size)
    one_hot = OneHotEncoder(
        categories=[np.arange(codebook_size)] * codes[0].shape[1], handle_unknown="ignore"
    )
    return Probe(
        linear_latents=linear_accuracy(*latents, *labels, StandardScaler()),
        linear_codes=linear_accuracy(*codes, *labels, one_hot),
        linear_histogram=linear_accuracy(*counts, *labels, StandardScaler()),
        knn_latents=knn_accuracy(*latents, *labels),
        knn_latents_cosine=knn_accuracy(*latents, *labels, metric="cosine"),
        knn_codes=knn_accuracy(*codes, *labels, metric="hamming"),
    )


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

"""What is left of an image's class behind the bottleneck: linear probes and neighbours on codes and latents."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from gmvq.errors import check_size
from gmvq.evaluation.batches import check_codes, device_of, evaluating, image_batches

#: Strengths of the L2 penalty, as scikit-learn's C, that a probe chooses from on a held-out fifth of its training set.
STRENGTHS = (0.003, 0.03, 0.3, 3.0)
_ITERATIONS = 200
_BLOCK_VALUES = 1 << 24  # entries of one block of comparisons


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
        knn_latents, knn_latents_cosine: neighbours by Euclidean distance and by cosine.
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
    """Encode a labelled data set, or its first ``limit`` images.

    Args:
        model: a ``VQAutoencoder`` around any quantizer with one codebook.
        dataset: images with ``label(i)``, as ``gmvq.data.open_images`` gives them.

    Raises:
        ValueError: an image has no label, or there is no codebook.
    """
    tokenizer: Any = model
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(model):
        for x in image_batches(dataset, batch_size=batch_size, device=device_of(model), limit=limit):
            out = tokenizer(x).quantizer
            check_codes(out.indices)
            parts = out.quantized.float(), out.indices, x.float()
            found.append((parts[0].flatten(1).cpu(), parts[1].flatten(1).cpu(), parts[2].flatten(1).cpu()))
    latents, indices, pixels = (torch.cat(part) for part in zip(*found, strict=True))
    labels = [dataset.label(i) for i in range(len(indices))]
    if any(label is None for label in labels):
        raise ValueError("a probe needs images with labels, and these have none; use a labelled set")
    return Encoded(latents, indices, torch.tensor(labels), pixels)


def probe(train: Encoded, test: Encoded, codebook_size: int, *, neighbours: int = 5) -> Probe:
    """Measure what classifiers on codes and latents reach; they are fitted to ``train`` alone."""
    sets = train.labels, test.labels
    truth = train.labels.numpy(), test.labels.numpy()
    counts = histogram(train.indices, codebook_size), histogram(test.indices, codebook_size)
    codes = one_hot(train.indices, codebook_size), one_hot(test.indices, codebook_size)
    unit = nn.functional.normalize(train.latents), nn.functional.normalize(test.latents)
    return Probe(
        linear_latents=linear_accuracy(*_standardised(train.latents, test.latents), *truth),
        linear_codes=linear_accuracy(*codes, *truth),
        linear_histogram=linear_accuracy(*_standardised(*counts), *truth),
        knn_latents=knn_accuracy(train.latents, test.latents, *sets, neighbours=neighbours),
        knn_latents_cosine=knn_accuracy(*unit, *sets, neighbours=neighbours),
        knn_codes=knn_accuracy(train.indices, test.indices, *sets, neighbours=neighbours),
    )


def probe_pixels(train: Encoded, test: Encoded, *, neighbours: int = 5) -> dict[str, float]:
    """The same classifiers on the images themselves: ``linear_pixels`` and ``knn_pixels``."""
    features = _standardised(train.pixels, test.pixels)
    return {
        "linear_pixels": linear_accuracy(*features, train.labels.numpy(), test.labels.numpy()),
        "knn_pixels": knn_accuracy(
            train.pixels, test.pixels, train.labels, test.labels, neighbours=neighbours
        ),
    }


def linear_accuracy(train: Any, test: Any, labels: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Accuracy of multinomial logistic regression with an L2 penalty chosen from ``STRENGTHS``.

    Args:
        train, test: (N, F) and (M, F), arrays or sparse matrices.
        labels, truth: the classes, (N,) and (M,).
    """
    make = LogisticRegression
    held = np.arange(len(labels)) % 5 == 0

    def fitted(c: float, rows: NDArray[np.bool_]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a fit that stops at the limit: the strength is chosen by what it reaches
            return make(C=c, max_iter=_ITERATIONS, tol=1e-3).fit(train[rows], labels[rows])

    best = max(STRENGTHS, key=lambda c: fitted(c, ~held).score(train[held], labels[held]))
    return float(fitted(best, np.ones_like(held)).score(test, truth))


def knn_accuracy(train: Tensor, test: Tensor, labels: Tensor, truth: Tensor, *, neighbours: int = 5) -> float:
    """Accuracy of the vote of the nearest training vectors; of equal votes the class of the nearest one wins.

    Args:
        train, test: (N, F) and (M, F); of floating point: by Euclidean distance, of integers: by Hamming distance.
        labels, truth: the classes.
        neighbours: k.

    Raises:
        ValueError: fewer training vectors than neighbours.
    """
    check_size("neighbours", neighbours)
    if train.shape[0] < neighbours:
        raise ValueError(f"{neighbours} neighbours need as many training images, got {train.shape[0]}")
    classes = int(labels.max()) + 1
    right = 0
    block = max(1, _BLOCK_VALUES // train.shape[0])
    for rows, true in zip(test.split(block), truth.split(block), strict=True):
        floating = train.is_floating_point()
        distance = torch.cdist(rows, train) if floating else _hamming(rows, train).float()
        near = labels[
            distance.topk(neighbours, largest=False, sorted=True).indices
        ]  # (B, k), the nearest first
        order = 1.0 + 0.25 * 0.5 ** torch.arange(neighbours)  # the fractions decide between equal votes alone
        votes = torch.zeros(len(rows), classes).scatter_add_(1, near, order.expand(len(rows), -1))
        right += int((votes.argmax(1) == true).sum())
    return right / len(truth)


def _hamming(first: Tensor, second: Tensor) -> Tensor:
    """Positions with different codes, (N, P) and (M, P) -> (N, M), int16; one position at a time, to stay small."""
    counts = torch.zeros(first.shape[0], second.shape[0], dtype=torch.int16)
    for a, b in zip(first.T, second.T.contiguous(), strict=True):
        counts += a[:, None] != b
    return counts


def one_hot(indices: Tensor, codebook_size: int) -> Any:
    """Codes (N, P) as a sparse matrix (N, P K) with P ones in a row; -1 (masked) is no one."""
    count, positions = indices.shape
    valid = indices >= 0
    columns = (indices + codebook_size * torch.arange(positions))[valid].numpy()
    starts = np.concatenate([[0], valid.sum(1).cumsum(0).numpy()])
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_matrix((ones, columns, starts), shape=(count, positions * codebook_size))


def histogram(indices: Tensor, codebook_size: int) -> Tensor:
    """How often each code occurs in an image, (N, P) -> (N, K), float32."""
    counts = torch.zeros(indices.shape[0], codebook_size)
    return counts.scatter_add_(1, indices.clamp_min(0), (indices >= 0).float())


def _standardised(train: Tensor, test: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both by the mean and standard deviation of the training set; what does not vary there becomes 0."""
    mean, std = train.mean(0), train.std(0)
    scale = torch.where(std > 1e-6, 1.0 / std.clamp_min(1e-6), 0.0)
    return ((train - mean) * scale).numpy(), ((test - mean) * scale).numpy()

"""Probes: exact on codes that are the class, at chance on codes that are not, neighbours against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gmvq_bench.studies.bottleneck import (
    Encoded,
    encode_labelled,
    histogram,
    knn_accuracy,
    linear_accuracy,
    probe,
    probe_pixels,
)


def made(count: int, informed: bool, seed: int) -> Encoded:
    """Three classes; the code at the first position is the class where ``informed``, and the latents with it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    indices = torch.randint(3, 8, (count, 4), generator=generator)
    if informed:
        indices[:, 0] = labels
    latents = indices.float().flatten(1) * torch.tensor([9.0, 0.1, 0.1, 0.1])
    return Encoded(latents, indices, labels, torch.rand(count, 5, generator=generator))


def test_codes_that_are_the_class_are_read_and_others_are_not() -> None:
    found = probe(made(150, True, 0), made(150, True, 1), 8)
    for name in ("linear_latents", "linear_codes", "linear_histogram", "knn_latents"):
        assert found[name] > 0.97, name
    assert found["knn_codes"] > 0.6  # one position of four tells
    blind = probe(made(300, False, 0), made(300, False, 1), 8)
    assert all(0.2 < value < 0.47 for value in blind.values())
    assert all(0.2 < v < 0.47 for v in probe_pixels(made(300, False, 0), made(300, False, 1)).values())


def test_votes_count_and_the_nearest_breaks_ties() -> None:
    x, at = np.array([[0.0], [1.0], [2.0], [30.0]]), np.array([[0.2]])
    labels = np.array([0, 1, 1, 0])
    assert knn_accuracy(x, at, labels, np.array([1]), neighbours=3) == 1.0  # 0 1 1
    assert knn_accuracy(x, at, labels, np.array([0]), neighbours=2) == 1.0  # 0 1: the nearest
    assert knn_accuracy(x, at, labels, np.array([0]), neighbours=4) == 1.0  # 0 1 1 0: two each
    assert knn_accuracy(x, at, 1 - labels, np.array([1]), neighbours=4) == 1.0  # 1 0 0 1
    with pytest.raises(ValueError, match="neighbors"):
        knn_accuracy(x, at, labels, np.array([0]), neighbours=5)


def test_histogram_of_masked_codes() -> None:
    indices = np.array([[0, 2, 2], [1, -1, 0]])
    assert histogram(indices, 3).tolist() == [[1, 0, 2], [1, 1, 0]]


def test_a_probe_is_fitted_to_its_training_set_alone() -> None:
    train, test = made(100, True, 0), made(100, True, 1)
    args = (train.latents.numpy(), test.latents.numpy(), train.labels.numpy())
    assert linear_accuracy(*args, test.labels.numpy(), StandardScaler()) > 0.95
    assert linear_accuracy(*args, (test.labels.numpy() + 1) % 3, StandardScaler()) < 0.05


def test_a_model_is_encoded_with_its_labels(tokenizer, images_of) -> None:
    dataset = images_of(count=6)
    dataset.label = lambda i: i % 2
    found = encode_labelled(tokenizer, dataset, limit=5)
    x = torch.stack([dataset[i] for i in range(5)])
    expected: Tensor = tokenizer.encode(x).flatten(1)
    torch.testing.assert_close(found.indices, expected)
    torch.testing.assert_close(found.latents, tokenizer(x).quantizer.quantized.detach().flatten(1))
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    torch.testing.assert_close(found.pixels, x.flatten(1))
    dataset.label = lambda i: None
    with pytest.raises(ValueError, match="have none"):
        encode_labelled(tokenizer, dataset, limit=5)

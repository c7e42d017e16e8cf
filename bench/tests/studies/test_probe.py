"""Probes: exact on codes that are the class, at chance on codes that are not, neighbours against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq_bench.studies.probe import (
    Encoded,
    encode_labelled,
    histogram,
    knn_accuracy,
    linear_accuracy,
    one_hot,
    probe,
    probe_pixels,
)

pytest.importorskip("sklearn")
GENERATOR = torch.Generator().manual_seed(0)


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
        assert getattr(found, name) > 0.97, name
    assert found.knn_codes > 0.6  # one position of four tells
    blind = probe(made(300, False, 0), made(300, False, 1), 8)
    assert all(0.2 < value < 0.47 for value in vars(blind).values())
    assert all(0.2 < v < 0.47 for v in probe_pixels(made(300, False, 0), made(300, False, 1)).values())


@pytest.mark.parametrize("metric", ["euclidean", "hamming"])
def test_neighbours_are_those_of_scikit_learn(monkeypatch, metric: str) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    monkeypatch.setattr("gmvq_bench.studies.probe._BLOCK_VALUES", 900)  # several blocks
    x, y = torch.rand(80, 30, generator=GENERATOR), torch.rand(50, 30, generator=GENERATOR)
    if metric == "hamming":
        x, y = (x * 3).long(), (y * 3).long()
    labels, truth = torch.randint(0, 2, (80,), generator=GENERATOR), torch.randint(0, 2, (50,))
    theirs = KNeighborsClassifier(1, metric=metric, algorithm="brute").fit(x.numpy(), labels.numpy())
    expected = float(theirs.score(y.numpy(), truth.numpy()))
    # nearest codes may be tied, and then either is right
    assert knn_accuracy(x, y, labels, truth, neighbours=1) == pytest.approx(
        expected, abs=0.2 if metric == "hamming" else 1e-9
    )


def test_votes_count_and_the_nearest_breaks_ties() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [30.0]])
    labels = torch.tensor([0, 1, 1, 0])
    at = torch.tensor([[0.2]])
    assert knn_accuracy(x, at, labels, torch.tensor([1]), neighbours=3) == 1.0  # 0 1 1
    assert knn_accuracy(x, at, labels, torch.tensor([0]), neighbours=2) == 1.0  # 0 1: the nearest
    assert knn_accuracy(x, at, labels, torch.tensor([0]), neighbours=4) == 1.0  # 0 1 1 0: two each
    assert knn_accuracy(x, at, 1 - labels, torch.tensor([1]), neighbours=4) == 1.0  # 1 0 0 1
    with pytest.raises(ValueError, match="5 neighbours need as many training images, got 4"):
        knn_accuracy(x, at, labels, torch.tensor([0]), neighbours=5)


def test_one_hot_and_histogram_of_masked_codes() -> None:
    indices = torch.tensor([[0, 2, 2], [1, -1, 0]])
    expected: list[list[int]] = [[1, 0, 0, 0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0, 1, 0, 0]]
    assert one_hot(indices, 3).toarray().tolist() == expected
    assert histogram(indices, 3).tolist() == [[1, 0, 2], [1, 1, 0]]


def test_a_probe_is_fitted_to_its_training_set_alone() -> None:
    train, test = made(100, True, 0), made(100, True, 1)
    args = (train.latents.numpy(), test.latents.numpy(), train.labels.numpy())
    assert linear_accuracy(*args, test.labels.numpy()) > 0.95
    assert linear_accuracy(*args, (test.labels.numpy() + 1) % 3) < 0.05


def test_a_model_is_encoded_with_its_labels(tokenizer, images_of) -> None:
    dataset = images_of(count=6)
    dataset.label = lambda i: i % 2
    found = encode_labelled(tokenizer, dataset, limit=5, batch_size=2)
    x = torch.stack([dataset[i] for i in range(5)])
    expected: Tensor = tokenizer.encode(x).flatten(1)
    torch.testing.assert_close(found.indices, expected)
    torch.testing.assert_close(found.latents, tokenizer(x).quantizer.quantized.detach().flatten(1))
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    torch.testing.assert_close(found.pixels, x.flatten(1))
    dataset.label = lambda i: None
    with pytest.raises(ValueError, match="have none"):
        encode_labelled(tokenizer, dataset)

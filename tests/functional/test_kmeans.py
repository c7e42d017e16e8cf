"""K-means: recovery of clusters, determinism, empty clusters, too few latents."""

from __future__ import annotations

import warnings

import pytest
import torch

from gmvq.functional.kmeans import kmeans, nearest_code


def clusters(per_cluster: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centers = 10.0 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    points = centers.repeat_interleave(per_cluster, 0)
    return centers, points + 0.1 * torch.randn(points.shape, generator=generator)


def test_nearest_code_equals_the_direct_search() -> None:
    z, codebook = torch.randn(33, 5), torch.randn(7, 5)
    distance, index = torch.cdist(z, codebook).square().min(-1)
    ours, squared = nearest_code(z, codebook)
    torch.testing.assert_close(ours, index)
    torch.testing.assert_close(squared, distance, atol=1e-4, rtol=1e-4)


def test_codewords_are_the_means_of_their_cells_and_error_falls() -> None:
    z = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    errors = [nearest_code(z, kmeans(z, 12, iterations=i))[1].mean() for i in (1, 3, 10, 60)]
    assert errors == sorted(errors, reverse=True)
    codebook = kmeans(z, 12, iterations=60)
    index, _ = nearest_code(z, codebook)
    means = torch.stack([z[index == c].mean(0) for c in range(12)])
    torch.testing.assert_close(codebook, means, atol=1e-4, rtol=1e-4)


def starts_in_every_cluster(points: torch.Tensor, seed: int) -> bool:
    start = kmeans(points, 4, iterations=0, seed=seed)
    return len((start > 5).float().mul(torch.tensor([1.0, 2.0])).sum(-1).unique()) == 4


def test_recovers_separated_clusters() -> None:
    """With a start in each cluster exactly; with many more codes than clusters from any of these starts."""
    centers, points = clusters()
    seeds = [seed for seed in range(60) if starts_in_every_cluster(points, seed)]
    assert seeds
    means = points.view(4, -1, 2).mean(1)
    for seed in seeds:
        codebook = kmeans(points, 4, seed=seed)
        torch.testing.assert_close(codebook[torch.cdist(means, codebook).argmin(-1)], means)
    for seed in range(10):
        distance = torch.cdist(centers, kmeans(points, 32, seed=seed)).min(-1).values
        assert (distance < 0.3).all()


def test_an_empty_cluster_restarts_at_a_far_point() -> None:
    points = torch.cat([torch.zeros(98, 2), torch.tensor([[9.0, 9.0], [9.0, -9.0]])])
    codebook = kmeans(points, 3, seed=0)
    expected = torch.tensor([[0.0, 0.0], [9.0, -9.0], [9.0, 9.0]])
    order = codebook[:, 1].argsort()
    torch.testing.assert_close(codebook[order], expected[expected[:, 1].argsort()])


def test_depends_on_the_seed_alone() -> None:
    _, points = clusters()
    torch.manual_seed(1)
    first = kmeans(points, 6, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    torch.testing.assert_close(kmeans(points, 6, seed=3), first, atol=0.0, rtol=0.0)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert not torch.equal(kmeans(points, 6, seed=4), first)


def test_more_codes_than_latents_warns_and_draws_the_rest() -> None:
    _, points = clusters(2)
    with pytest.warns(UserWarning, match="8 latent vectors for 20 codes"):
        codebook = kmeans(points, 20)
    assert codebook.shape == (20, 2)
    assert torch.isfinite(codebook).all()
    index, distance = nearest_code(points, codebook)
    torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-4, rtol=0.0)
    assert len(index.unique()) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kmeans(points, 8).shape == (8, 2)


def test_identical_latents_and_a_single_code() -> None:
    torch.testing.assert_close(kmeans(torch.ones(10, 3), 4), torch.ones(4, 3))
    points = torch.randn(30, 3)
    torch.testing.assert_close(kmeans(points, 1)[0], points.mean(0))
    assert kmeans(points.double(), 2).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_and_sums_in_float32(dtype: torch.dtype) -> None:
    """A bfloat16 to which ones are added stays at 256: the mean of 5,000 latents near 1 came out as 19.5."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.cat([torch.zeros(100, 2), torch.ones(5000, 2)])
    found = kmeans((centers + 0.01 * torch.randn(centers.shape, generator=generator)).to(dtype), 2)
    assert found.dtype == dtype
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(found.float().sort(0).values, expected, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("count", [3, 60])
def test_a_default_device_elsewhere_does_not_matter(count) -> None:
    """``torch.set_default_device`` is for tensors of the user."""
    z = torch.randn(count, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = kmeans(z, 4)
        with torch.device("meta"):
            found = kmeans(z, 4)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)

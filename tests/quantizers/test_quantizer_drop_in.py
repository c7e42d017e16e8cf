"""The drop-in trap: a VQ-VAE with the layer put in must learn, whatever its reconstruction loss is scaled by."""

from __future__ import annotations

import functools

import pytest
import torch.nn.functional as F
from small_vqvae import CODES, Loss, Result, patches, train

from gmvq import Constant, GaussianLikelihood, Objective, negative_evidence
from gmvq.functional.kmeans import kmeans, nearest_code

LOSSES: dict[str, Loss] = {
    "mse": lambda y, x, out: F.mse_loss(y, x) + out.loss,
    "sum": lambda y, x, out: F.mse_loss(y, x, reduction="sum") + out.loss,
    "100 mse": lambda y, x, out: 100.0 * F.mse_loss(y, x) + out.loss,
    "l1": lambda y, x, out: F.l1_loss(y, x) + out.loss,
    "evidence": lambda y, x, out: negative_evidence(GaussianLikelihood(), y, x, out),
}


@functools.cache
def result(name: str) -> Result:
    return train(LOSSES[name])


def test_the_data_are_structured_but_no_few_clusters() -> None:
    """As many whole-patch prototypes as there are codes leave much more error: positions must be combined."""
    x = patches(2048, seed=0)
    assert patches(8, seed=0).equal(patches(8, seed=0))
    _, error = nearest_code(x, kmeans(x, CODES))
    left = error.mean() / (x - x.mean(0)).square().sum(-1).mean()
    assert left > 1.2 * result("mse").unexplained


@pytest.mark.parametrize("name", LOSSES)
def test_it_learns_and_keeps_its_codebook_alive(name) -> None:
    """Plain Adam over all parameters, one rate, 300 steps, no progress set: 0.10 remains unexplained."""
    assert result(name).unexplained < 0.35
    assert result(name).perplexity > CODES / 4


def test_units_of_the_reconstruction_loss_hardly_matter() -> None:
    errors = [result(name).unexplained for name in ("mse", "sum", "100 mse")]
    assert max(errors) < 1.6 * min(errors)


def test_nats_added_to_a_mean_squared_error_are_the_trap() -> None:
    """The line that ``out.loss`` exists for, at the literature's gamma = beta = 1: 0.31 unexplained against 0.10."""
    literature = Objective("albo", Constant(1.0), Constant(1.0))
    trapped = train(lambda y, x, out: F.mse_loss(y, x) + out.nats, objective=literature)
    converted = train(LOSSES["mse"], objective=literature)
    assert trapped.unexplained > 2 * converted.unexplained
    assert converted.unexplained < 0.2

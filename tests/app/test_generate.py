"""Samples of a prior, and marked places drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmvq.app.picture import Encoded, encode
from gmvq.app.view import redrawn, samples
from gmvq.models import VQAutoencoder
from gmvq.prior import Filters, TokenPrior, TokenSpec, masked


@pytest.fixture
def encoded(model: VQAutoencoder, picture: Tensor) -> Encoded:
    return encode(model, picture)


def test_samples_are_the_priors(model: VQAutoencoder, prior: TokenPrior) -> None:
    sheet = samples(model, prior, 3, Filters(top_p=0.9), seed=5)
    expected = model.decode(prior.sample(3, filters=Filters(top_p=0.9), seed=5)).clamp(0, 1)
    # 16 x 20 pixels, enlarged 13 times, with lines of 4 pixels.
    assert sheet.shape == (2 * 16 * 13 + 4, 2 * 20 * 13 + 4, 3)
    first = (expected[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(sheet[: 16 * 13 : 13, : 20 * 13 : 13], first)
    assert not np.array_equal(samples(model, prior, 3, Filters(top_p=0.9), seed=6), sheet)


def test_too_many_samples(model: VQAutoencoder, prior: TokenPrior) -> None:
    with pytest.raises(ValueError, match="1 to 36 pictures"):
        samples(model, prior, 37, Filters())


def test_only_marked_places_are_drawn(prior: TokenPrior, encoded: Encoded) -> None:
    mask = torch.zeros(8, 11, dtype=torch.bool)
    mask[3:6, 7:9] = True
    drawn = redrawn(prior, encoded, mask, Filters(), seed=1).indices
    assert torch.equal(drawn[~mask], encoded.indices[~mask])
    assert not torch.equal(drawn, encoded.indices)
    assert ((drawn >= 0) & (drawn < 16)).all()
    assert torch.equal(redrawn(prior, encoded, mask, Filters(), seed=1).indices, drawn)
    corner = torch.zeros_like(mask)
    corner[7, 10] = corner[0, 0] = True
    with pytest.raises(ValueError, match="draws 4 positions in a row, and the marked ones span 8"):
        redrawn(prior, encoded, corner, Filters())
    with pytest.raises(ValueError, match="no place is marked"):
        redrawn(prior, encoded, mask & False, Filters())


def test_a_picture_below_the_priors_size(model: VQAutoencoder, prior: TokenPrior, picture: Tensor) -> None:
    small = encode(model, picture[:, :8])
    with pytest.raises(ValueError, match="the picture has 2"):
        redrawn(prior, small, small.indices >= 0, Filters())


def test_inpainting_reads_what_is_known(prior: TokenPrior) -> None:
    """With one masked place and one step, draws follow the network's marginal given all others."""
    indices = torch.arange(20).view(1, 4, 5) % 16
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2] = True
    drawn = prior.inpaint(indices.expand(1000, -1, -1), mask, steps=1)
    assert torch.equal(drawn[:, ~mask], indices.expand(1000, -1, -1)[:, ~mask])
    ids = prior.spec.sequence(indices).masked_fill(mask.flatten(), prior.spec.mask_id)
    with torch.no_grad():
        label = prior.spec.label_ids(None, 1, ids.device)
        p = masked._logits(prior.network, ids, label)[0, 7].softmax(-1)
    seen = torch.bincount(drawn[:, 1, 2], minlength=16) / 1000
    assert ((seen - p).abs() < 4.5 * (p / 1000).sqrt()).all()


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_inpainting_fills_every_place(prior: TokenPrior, steps: int) -> None:
    drawn = prior.inpaint(
        torch.zeros(2, 4, 5, dtype=torch.int64), torch.ones(4, 5, dtype=torch.bool), steps=steps
    )
    assert drawn.min() >= 0
    assert drawn.max() < 16


def test_bad_requests(prior: TokenPrior) -> None:
    indices = torch.zeros(1, 4, 5, dtype=torch.int64)
    causal = TokenPrior(TokenSpec((4, 5), 16), "causal")
    with pytest.raises(ValueError, match="train one with"):
        causal.inpaint(indices, torch.ones(4, 5, dtype=torch.bool))
    for mask in (torch.ones(5, 4, dtype=torch.bool), torch.ones(4, 5), torch.zeros(4, 5, dtype=torch.bool)):
        with pytest.raises(ValueError, match="mask must be boolean"):
            prior.inpaint(indices, mask)

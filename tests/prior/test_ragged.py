"""A prior over the leaves of ragged codes: its tokens, its likelihood, its samples, its bytes; and the commands."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gmvq.prior import TokenPrior, TokenSpec, fit_prior
from gmvq.prior.coding import compress, decompress
from gmvq.prior.filters import Filters
from gmvq.prior.opening import open_prior
from gmvq.prior.ragged import sequence, walk
from gmvq.quantizers.leaves import to_leaves

from .conftest import make_prior

SPEC = TokenSpec((5, 4), 3, scales=3)
FAST = ["--trainer.accelerator", "cpu", "--logger", "none", "--trainer.enable_progress_bar", "false"]


def patchy(count: int, seed: int = 0) -> Tensor:
    """Grids of which many blocks have one code."""
    random = torch.Generator().manual_seed(seed)
    fine = torch.randint(0, 3, (count, 5, 4), generator=random)
    coarse = (
        torch.randint(0, 3, (count, 3, 2), generator=random).repeat_interleave(2, 1).repeat_interleave(2, 2)
    )
    keep = torch.rand(count, 3, 2, generator=random).repeat_interleave(2, 1).repeat_interleave(2, 2) < 0.7
    grid = torch.where(keep[:, :5], coarse[:, :5], fine)
    grid[0] = 2
    return grid


def followed(prior: TokenPrior, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of token sequences (B, T) through the KV cache, step by step, and the codes that they make."""
    nats = torch.zeros(len(tokens))

    def choose(step: int, logits: Tensor) -> Tensor:
        nonlocal nats
        chosen = tokens[:, step] if step < tokens.shape[1] else torch.zeros(len(tokens), dtype=torch.long)
        nats = nats - logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        return chosen

    with torch.no_grad():
        codes = walk(prior.network, prior.spec.label_ids(None, len(tokens), prior.device), choose)
    return nats, codes


def test_a_token_for_each_leaf_in_raster_order() -> None:
    grid = torch.tensor([[[1, 1, 0, 2], [1, 1, 0, 0], [2, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1]]])
    tokens, places = sequence(SPEC, grid)
    assert places.tolist() == [[0, 2, 3, 6, 7, 8, 9, 10, 12, 13, 16]]
    one, two, four = 0, 3, 6
    leaves = [
        two + 1,
        one + 0,
        one + 2,
        one + 0,
        one + 0,
        one + 2,
        one + 0,
        two + 2,
        one + 0,
        one + 0,
        four + 1,
    ]
    assert tokens.tolist() == [leaves]


def test_the_likelihood_is_that_of_the_steps_and_the_steps_make_the_grid() -> None:
    prior, grid = make_prior(SPEC), patchy(12)
    tokens, places = sequence(SPEC, grid)
    assert torch.equal((places < SPEC.length).sum(1), to_leaves(grid, 3)[1])
    nats, codes = followed(prior, tokens)
    assert torch.equal(codes.view_as(grid), grid)
    torch.testing.assert_close(prior.nats(grid), nats, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([prior.nats(one[None]) for one in grid]), nats, rtol=1e-4, atol=1e-4)
    assert prior.loss(grid).item() == pytest.approx(float(nats.mean()) / 20, rel=1e-4)


def test_all_sequences_of_leaves_have_probability_one() -> None:
    spec = TokenSpec((3,), 2, scales=2)
    ones, twos = [0, 1], [2, 3]
    # Positions 0 and 1 as a block or alone, position 2 as one or as a block that the end cuts.
    sequences = [*product(twos, ones + twos), *product(ones, ones, ones + twos)]
    longest = torch.tensor([[*one, *[0] * (3 - len(one))] for one in sequences])
    nats, _ = followed(make_prior(spec, spread=1.0), longest)
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert nats.std() > 0.1


def test_samples_follow_the_distribution_and_are_repeated_by_their_seed() -> None:
    prior = make_prior(TokenSpec((2,), 2, scales=2), spread=1.0)
    drawn = prior.sample(4000, seed=1, batch_size=1000)
    assert torch.equal(drawn, prior.sample(4000, seed=1, batch_size=1000))
    sequences = torch.tensor([[2, 0], [3, 0], *product([0, 1], [0, 1])])
    nats, codes = followed(prior, sequences)
    for grid in ([0, 0], [0, 1], [1, 0], [1, 1]):
        which = (codes == torch.tensor(grid)).all(1)
        expected = float((-nats[which]).exp().sum())
        assert float((drawn == torch.tensor(grid)).all(1).float().mean()) == pytest.approx(expected, abs=0.03)
    labelled = make_prior(TokenSpec((5, 4), 3, labels=2, scales=3))
    guided = labelled.sample(3, labels=torch.tensor([0, 1, 1]), filters=Filters(guidance=2.0))
    assert guided.shape == (3, 5, 4)
    assert guided.min() >= 0
    assert guided.max() < 3


def test_bytes_are_as_many_as_the_likelihood_says_and_come_back() -> None:
    pytest.importorskip("constriction")
    from gmvq.prior.coding import payload_bits

    prior, grid = make_prior(SPEC), patchy(40)
    data = compress(prior, grid)
    assert torch.equal(decompress(prior, data), grid)
    bits = float(prior.nats(grid).sum()) / np.log(2)
    assert bits <= payload_bits(data) + 1 < bits + 100
    assert decompress(prior, compress(prior, grid[:0])).shape == (0, 5, 4)


def test_it_is_saved_with_its_scales_and_fitted_in_memory(tmp_path: Path) -> None:
    prior = make_prior(SPEC)
    prior.save_pretrained(tmp_path)
    again = TokenPrior.from_pretrained(tmp_path)
    assert again.spec == SPEC
    assert torch.equal(again.nats(patchy(4)), prior.nats(patchy(4)))
    fitted = fit_prior(patchy(16), 3, scales=3, steps=2, batch_size=4, accelerator="cpu")
    assert fitted.spec == SPEC
    grids = fit_prior(patchy(16), 3, scales=3, steps=2, batch_size=4, accelerator="cpu", kind="masked")
    assert grids.sample(2).shape == (2, 5, 4)
    with pytest.raises(ValueError, match="one level"):
        TokenSpec((4, 2), 8, levels=2, scales=2)


def test_from_pictures_to_samples_by_the_command_line(gmvq: Callable[..., Any], tmp_path: Path) -> None:
    """The commands of docs/tokens.md and docs/generation.md, in a shrunken setting."""
    random = np.random.default_rng(0)
    pictures = np.kron(random.integers(0, 255, (40, 4, 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    pictures[::2] = pictures[::2, :1, :1]
    np.savez(tmp_path / "data.npz", x_train=pictures[:28], x_test=pictures[28:])
    fit = ["fit", "--data.path", tmp_path / "data.npz", "--data.size", 16, "--model.scales", 2, *FAST]
    fit += ["--model.ragged", "true", "--model.codebook_size", 8, "--data.batch_size", 8]
    run, tokens, prior = (tmp_path / name for name in ("run", "tokens", "prior"))
    assert gmvq(*fit, "--trainer.max_steps", 3, "--out", run).code == 0
    assert gmvq("encode", run, "--out", tokens, "--quiet", "--budget", 10).code == 0
    shown = gmvq("tokens", "stats", tokens).out
    assert "on average, of 8" in shown
    assert "of these for the tree" in shown
    assert gmvq("tokens", "verify", tokens).code == 0
    steps = ["--trainer.max_steps", 2, "--data.batch_size", 8, "--model.warmup_steps", 1]
    assert gmvq("prior", "fit", tokens, "--out", prior, *steps, *FAST).code == 0
    fitted, notes = open_prior(prior)
    assert fitted.spec == TokenSpec((4, 4), 8, scales=2)
    assert notes["metrics"]["bits_per_image"] == pytest.approx(16 * notes["metrics"]["bits_per_token"])
    assert gmvq("sample", prior, run, "--n", 3, "--out", tmp_path / "samples").code == 0
    assert (tmp_path / "samples" / "grid.png").is_file()
    assert gmvq("decode", tokens, "--out", tmp_path / "decoded", "--limit", 2).code == 0

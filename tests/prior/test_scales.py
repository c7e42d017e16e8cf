"""A prior over the scales of a pyramid: the order of its tokens, and the way from ``gmvq fit`` to ``gmvq sample``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gmvq import PyramidGMVQ
from gmvq.prior import TokenPrior, TokenSpec, fit_prior
from gmvq.prior.opening import open_prior
from gmvq.tokens import TokenDataset
from gmvq.tokens.statistics import statistics

from .conftest import make_prior

SPEC = TokenSpec((4, 4, 3), 8, levels=3, pyramid=True)
FAST = ["--trainer.accelerator", "cpu", "--logger", "none", "--trainer.enable_progress_bar", "false"]


def pyramid_indices(count: int) -> torch.Tensor:
    torch.manual_seed(0)
    built = PyramidGMVQ(4, 8, 3)
    latents = torch.randn(count, 4, 4, 4)
    built.init_codebook(latents)
    return built.eval().encode(latents)


def test_the_sequence_goes_from_coarse_to_fine() -> None:
    assert SPEC.length == 1 + 4 + 16
    assert SPEC.levels_of.tolist() == [0] + 4 * [1] + 16 * [2]
    indices = pyramid_indices(5)
    codes = SPEC.codes(indices)
    assert torch.equal(codes[:, 0], indices[:, 0, 0, 0])
    assert torch.equal(codes[:, 1:5], indices[:, ::2, ::2, 1].flatten(1))
    assert torch.equal(codes[:, 5:], indices[..., 2].flatten(1))
    assert torch.equal(SPEC.indices(SPEC.sequence(indices)), indices)


def test_a_whole_image_has_every_code_of_every_scale() -> None:
    indices = pyramid_indices(1)
    indices[0, 2, 2, 1] = -1
    with pytest.raises(ValueError, match="masked positions"):
        SPEC.sequence(indices)
    with pytest.raises(ValueError, match="last axis"):
        TokenSpec((4, 4), 8, levels=1, pyramid=True)


def test_the_configuration_of_other_priors_stays_as_it_was() -> None:
    spec = TokenSpec((2, 2), 4)
    assert spec.to_config() == {"shape": [2, 2], "codebook_size": 4, "levels": 1, "labels": 0}
    assert TokenSpec.from_config(SPEC.to_config()) == SPEC


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_samples_are_pyramids(kind: str, tmp_path: Path) -> None:
    make_prior(SPEC, kind).save_pretrained(tmp_path)
    prior = TokenPrior.from_pretrained(tmp_path)
    drawn = prior.sample(6, steps=4)
    assert torch.equal(drawn >= 0, pyramid_indices(6) >= 0)
    assert drawn.max() < 8
    if kind == "masked":
        finest = torch.zeros(SPEC.shape, dtype=torch.bool)
        finest[..., 2] = True
        anew = prior.inpaint(drawn, finest, seed=1)
        assert torch.equal(anew[..., :2], drawn[..., :2])
        assert not torch.equal(anew, drawn)


def test_compressed_tokens_come_back() -> None:
    pytest.importorskip("constriction")
    from gmvq.prior.coding import compress, decompress

    prior, indices = make_prior(SPEC), pyramid_indices(7)
    assert torch.equal(decompress(prior, compress(prior, indices)), indices)


def test_fit_prior_takes_tokens_in_memory() -> None:
    prior = fit_prior(
        pyramid_indices(16), 8, levels=3, pyramid=True, steps=2, batch_size=4, accelerator="cpu"
    )
    assert prior.spec == SPEC


def test_from_pictures_to_samples_by_the_command_line(gmvq: Callable[..., Any], tmp_path: Path) -> None:
    """The commands of docs/generation.md, in a shrunken setting."""
    random = np.random.default_rng(0)
    pictures = np.kron(random.integers(0, 255, (40, 3, 3, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=pictures[:28], x_test=pictures[28:])
    fit = ["fit", "--data.path", tmp_path / "data.npz", "--data.size", 12, "--model.scales", 2, *FAST]
    fit += ["--model.shared_codebook", "true", "--model.codebook_size", 8, "--data.batch_size", 8]
    run, tokens, prior = (tmp_path / name for name in ("run", "tokens", "prior"))
    assert gmvq(*fit, "--trainer.max_steps", 3, "--out", run).code == 0
    assert gmvq("encode", run, "--out", tokens, "--quiet").code == 0
    entries = json.loads((tokens / "manifest.json").read_text())["indices"]
    assert entries["pyramid"]
    assert entries["shape"] == [3, 3, 2]
    found = statistics(tokens)
    assert found.codes_per_image == 4 + 9
    assert found.fixed_bits_per_image == 13 * 3
    counts = [int(level.histogram.sum()) for level in found.levels]
    assert counts == [40 * 4, 40 * 9]
    bits = [count / 40 * level.bits_per_code for count, level in zip(counts, found.levels, strict=True)]
    assert found.bits_per_image == pytest.approx(sum(bits))
    assert "13 of 8" in gmvq("tokens", "stats", tokens).out
    assert gmvq("tokens", "verify", tokens).code == 0
    steps = ["--trainer.max_steps", 2, "--data.batch_size", 8, "--model.warmup_steps", 1]
    assert gmvq("prior", "fit", tokens, "--out", prior, *steps, *FAST).code == 0
    fitted, notes = open_prior(prior)
    assert fitted.spec == TokenSpec((3, 3, 2), 8, levels=2, pyramid=True)
    assert notes["metrics"]["bits_per_image"] == pytest.approx(13 * notes["metrics"]["bits_per_token"])
    rows = TokenDataset(tokens, split="test").rows(np.arange(12))["indices"]
    entropy = [bits_of(rows[..., 0][rows[..., 0] >= 0]), bits_of(rows[..., 1])]
    expected = (4 * entropy[0] + 9 * entropy[1]) / 13
    assert notes["metrics"]["bits_per_token_entropy"] == pytest.approx(expected)
    assert gmvq("sample", prior, run, "--n", 3, "--out", tmp_path / "samples").code == 0
    assert (tmp_path / "samples" / "grid.png").is_file()
    assert gmvq("decode", tokens, "--out", tmp_path / "decoded", "--limit", 2).code == 0


def bits_of(codes: torch.Tensor) -> float:
    p = np.bincount(codes.flatten()) / codes.numel()
    return -sum(value * np.log2(value) for value in p if value)


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("pyramid", [False, True])
def test_levels_of_other_sizes_have_no_code_beyond_theirs(kind: str, pyramid: bool) -> None:
    """Probabilities of a level sum to 1 over its own codes, so no sample and no nat is spent beyond them."""
    sizes = (8, 2, 3)
    spec = TokenSpec((2, 2, 3), 8, levels=3, pyramid=pyramid, codebook_sizes=sizes)
    assert TokenSpec.from_config(spec.to_config()) == spec
    assert TokenSpec((2, 2, 3), 8, levels=3, codebook_sizes=(8, 8, 8)) == TokenSpec((2, 2, 3), 8, levels=3)
    prior = make_prior(spec, kind)
    drawn = prior.sample(64, seed=0)
    assert [int(drawn[..., level].max()) for level in range(3)] <= [7, 1, 2]
    hidden = torch.randn(5, spec.length, prior.network.head.shape[-1])
    chances = prior.network.logits(hidden).softmax(-1)
    for place, level in enumerate(spec.levels_of.tolist()):
        assert_close(chances[:, place, : sizes[level]].sum(-1), torch.ones(5))
        assert_close(chances[:, place], prior.network.logits_at(hidden[:, place], place).softmax(-1))
    drawn[0, 0, 0, 1] = 2
    with pytest.raises(ValueError, match=r"indices of level 2 must lie in \[0, 1\]"):
        prior.nats(drawn)
    with pytest.raises(ValueError, match="codebook_sizes must be those of 3 levels"):
        TokenSpec((2, 2, 3), 9, levels=3, codebook_sizes=sizes)

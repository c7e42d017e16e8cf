"""``gmvq sample`` in this process, with a prior and without one: its files, its ways to draw, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.prior.opening import open_prior


def test_samples_are_files_and_a_grid(place: Path, gmvq: Callable[..., Any], tmp_path: Path) -> None:
    from PIL import Image

    done = gmvq("sample", place / "run", "--n", 5, "--label", 0, 2, "--guidance", 1, "--out", tmp_path / "s")
    assert done.code == 0, done.err
    files = sorted(file.name for file in (tmp_path / "s").iterdir())
    assert files == [*(f"{i:08d}.png" for i in range(5)), "grid.png", "samples.json"]
    record = json.loads((tmp_path / "s" / "samples.json").read_text())
    tokens = torch.tensor(record["tokens"])
    prior, _ = open_prior(place / "run")
    from gmvq.prior import Filters

    again = prior.sample(5, labels=torch.tensor([0, 2, 0, 2, 0]), filters=Filters(guidance=1.0), seed=0)
    assert torch.equal(tokens, again)
    from gmvq import VQAutoencoder

    image = VQAutoencoder.from_pretrained(place / "plain").decode(tokens).clamp(0, 1)[3]
    stored = torch.from_numpy(np.asarray(Image.open(tmp_path / "s" / "00000003.png")).copy()).permute(2, 0, 1)
    assert torch.equal(stored, image.mul(255).round().to(torch.uint8))
    assert Image.open(tmp_path / "s" / "grid.png").size == (3 * 10 - 2, 2 * 10 - 2)
    assert gmvq("sample", place / "run", "--out", tmp_path / "s").code == 2


@pytest.mark.parametrize(
    "options", [["--noise", "1"], ["--temperature", "0.5", "--top_k", "3", "--top_p", "0.9"]]
)
def test_ways_to_sample(place: Path, gmvq: Callable[..., Any], tmp_path: Path, options: list[str]) -> None:
    done = gmvq("sample", place / "run", place / "plain", "--n", 2, *options, "--out", tmp_path / "prior")
    assert done.code == 0, done.err
    done = gmvq("sample", "mixture", place / "plain", "--n", 2, *options, "--out", tmp_path / "mixture")
    assert (done.code, "these are of priors" in done.err) == (
        (0, False) if "--noise" in options else (2, True)
    )


def test_a_prior_without_notes_is_still_compared_with_the_tokenizer(
    place: Path, gmvq: Callable[..., Any], tmp_path: Path
) -> None:
    from gmvq.prior import TokenPrior, TokenSpec

    for number, (spec, message) in enumerate(
        [
            (TokenSpec((2, 2), 4), "1 code(s) of 8 for each position, and the prior draws 1 of 4"),
            (TokenSpec((2, 2, 2), 8, levels=2), "the prior draws 2 of 8"),
            (TokenSpec((3,), 8), "2 axes of positions, and the prior draws 1"),
        ]
    ):
        TokenPrior(spec).save_pretrained(tmp_path / str(number))
        done = gmvq("sample", tmp_path / str(number), place / "plain", "--out", tmp_path / "out")
        assert done.code == 2
        assert message in done.err

"""Distances, duplicates and the effective number of codewords; pictures of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from gmvq.evaluation import codebook as module
from gmvq.evaluation import decoded_codewords, inspect_codebook, save_png
from gmvq.evaluation.pictures import colour_map, enlarge, to_picture


def test_identical_codewords_count_as_one(hand_mixture: type) -> None:
    report = inspect_codebook(hand_mixture(torch.full((6, 4), 3.7)))
    assert_close(report.effective_codes, 1.0)
    assert report.near_duplicates == 5
    assert_close(report.nearest, torch.zeros(6, dtype=torch.float64))


def test_far_apart_codewords_all_count(hand_mixture: type) -> None:
    report = inspect_codebook(hand_mixture(torch.eye(7) * 50.0, precision=1.0))
    assert_close(report.effective_codes, 7.0)
    assert report.near_duplicates == 0
    assert_close(report.nearest, torch.full((7,), 50 * math.sqrt(2), dtype=torch.float64))
    assert report.unit == "component standard deviations"


def test_two_codewords_at_a_known_distance(hand_mixture: type) -> None:
    # Distance 0.3 at precision 4 is 0.6 standard deviations: Z_12 = exp(-0.18).
    report = inspect_codebook(hand_mixture(torch.tensor([[0.0], [0.3]]), precision=4.0))
    assert_close(report.effective_codes, 2 / (1 + math.exp(-0.18)))
    assert_close(report.nearest, torch.full((2,), 0.6, dtype=torch.float64), atol=1e-6, rtol=0)
    assert report.component_std is not None
    assert_close(report.component_std, torch.tensor([0.5], dtype=torch.float64))
    assert report.near_duplicates == 0


def test_use_weights_the_effective_number(tokenizer_of: type, hand_mixture: type) -> None:
    # Codes 0 and 1 coincide; 3 is far from everything and unused. Pixels alternate between the codes 0 and 2.
    points = torch.tensor([[0.0], [0.0], [1.0], [1e3]])
    images = torch.zeros(1, 1, 4, 4)
    images[..., 2:] = 1.0
    report = inspect_codebook(tokenizer_of(hand_mixture(points)), images)
    assert report.histogram is not None
    assert report.histogram.tolist() == [2, 0, 2, 0]
    assert_close(report.effective_codes_used, 2.0)
    assert_close(report.effective_codes, math.exp(-(0.5 * math.log(0.5) + 0.5 * math.log(0.25))))
    assert_close(report.summary()["perplexity"], 2.0)
    assert report.near_duplicates == 1


def test_copies_fake_perplexity_but_not_the_effective_number(tokenizer: nn.Module, dataset: object) -> None:
    report = inspect_codebook(tokenizer, dataset)  # pyright: ignore[reportArgumentType]
    values = report.summary()
    assert 1.0 <= values["effective_codes_used"] <= values["perplexity"] + 1e-9
    assert 1.0 <= values["effective_codes"] <= 8.0
    assert values["nearest_min"] <= values["nearest_median"] <= values["nearest_max"]
    assert_close(values["weights_perplexity"], 8.0)


def test_blocks_and_precision_per_feature(hand_mixture: type, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantizer = hand_mixture(torch.randn(37, 3))
    quantizer.log_precision = nn.Parameter(torch.tensor([0.1, -0.5, 1.2]))
    whole = inspect_codebook(quantizer)
    monkeypatch.setattr(module, "_BLOCK_VALUES", 100)
    blocked = inspect_codebook(quantizer)
    scaled = quantizer.codebook.double() * (0.5 * quantizer.log_precision.double()).exp()
    distances = torch.cdist(scaled, scaled)
    expected = (-(-0.5 * distances.square()).exp().mean(1).log().mean()).exp()
    assert_close(whole.effective_codes, float(expected.detach()), atol=1e-6, rtol=0)
    assert_close(blocked.effective_codes, whole.effective_codes)
    nearest = distances.fill_diagonal_(math.inf).amin(1).detach()
    assert_close(blocked.nearest, nearest, atol=1e-6, rtol=0)


def test_large_codebooks_are_sampled(hand_mixture: type) -> None:
    report = inspect_codebook(hand_mixture(torch.arange(50.0)[:, None] * 10), max_rows=20)
    assert (report.rows, report.nearest.numel()) == (20, 20)
    assert_close(report.effective_codes, 50.0)


def test_one_codeword(hand_mixture: type) -> None:
    report = inspect_codebook(hand_mixture(torch.ones(1, 3)))
    assert report.nearest.numel() == 0
    assert_close(report.effective_codes, 1.0)
    assert "nearest_min" not in report.summary()


def test_quantizers_without_a_mixture_have_distances_only(plain_tokenizer: nn.Module) -> None:
    report = inspect_codebook(plain_tokenizer)
    assert report.effective_codes is None
    assert report.near_duplicates is None
    assert report.unit == "units of the latents"
    assert_close(report.nearest, torch.full((8,), 0.2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_what_cannot_be_inspected_says_so(plain_tokenizer: Any, hand_mixture: type) -> None:
    plain_tokenizer.quantizer.codebook_size = 9
    with pytest.raises(ValueError, match="no single codebook of 9"):
        inspect_codebook(plain_tokenizer)
    with pytest.raises(TypeError, match="whole model"):
        inspect_codebook(hand_mixture(torch.zeros(2, 3)), torch.zeros(1, 3, 4, 4))


def test_decoded_codewords_show_every_code_from_dark_to_bright(
    tokenizer: nn.Module, codebook: Tensor
) -> None:
    picture = decoded_codewords(tokenizer, 2)
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * 5 + 1, 3 * 5 + 1, 3)  # 3 x 3 places of 4 pixels and their lines
    shown = {tuple(picture[3 + 5 * (i // 3), 3 + 5 * (i % 3)].tolist()) for i in range(8)}
    assert shown == {tuple(row) for row in (codebook * 255).round().int().tolist()}
    assert picture[13, 13].tolist() == [255, 255, 255]  # the ninth place is empty
    some = decoded_codewords(tokenizer, 1, codes=torch.tensor([7, 0]))
    assert some.shape == (4, 7, 3)
    assert some[1, 1].sum() < some[1, 4].sum()
    assert decoded_codewords(tokenizer, 1, max_codes=4).shape == (7, 7, 3)


def test_png_round_trip(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    path = save_png(tmp_path / "new" / "picture.png", picture)
    assert np.array_equal(np.asarray(Image.open(path)), picture)
    with pytest.raises(ValueError, match="uint8"):
        save_png(tmp_path / "picture.png", picture.astype(np.float32))  # pyright: ignore[reportArgumentType]


def test_pictures_and_maps() -> None:
    grey = to_picture(torch.tensor([[[-1.0, 0.5, 2.0, math.nan]]]))
    assert grey.tolist() == [[[0] * 3, [128] * 3, [255] * 3, [0] * 3]]
    assert enlarge(torch.tensor([[1.0, 2.0]]), 2, 4).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    colours = colour_map(torch.tensor([[0.0, 1.0, 9.0]]), 0.0, 1.0, name="viridis")
    assert colours.shape == (1, 3, 3)
    assert colours[0, 1].tolist() == colours[0, 2].tolist() != colours[0, 0].tolist()

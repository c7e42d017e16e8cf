"""Quarter turns and changed colours, and the set of all built-in photographs."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from gmvq.data import open_images
from gmvq.data.dataset import BRIGHTNESS, CHANCES, CONTRAST, HUE, SATURATION, TINT, vary
from gmvq.data.photos import ALL_PHOTOS, PHOTOS
from gmvq.data.pictures import COPIES, Pictures, TileView


def squares(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 196, (count, channels, 8, 8), dtype=np.uint8)


def chances(*columns: float) -> np.ndarray:
    """Of which those that are not given are in the middle, and change nothing."""
    return np.array([[*columns, *[0.5] * (CHANCES - len(columns))]])


def test_the_chance_in_the_middle_changes_nothing() -> None:
    planes = squares(1)
    assert np.array_equal(vary(planes, chances()), planes)


def test_squares_are_turned_in_all_eight_ways_once_flips_are_counted() -> None:
    planes = squares(1)
    assert np.array_equal(vary(planes, chances(0, 0.5, 0.5, 0.5, 0.5, 0.5)), planes[..., ::-1, :])
    assert np.array_equal(vary(planes, chances(0.5, 0, 0.5, 0.5, 0.5, 0.5)), planes.swapaxes(-1, -2))


def test_hue_turns_and_saturation_stretches_around_grey() -> None:
    red = np.broadcast_to(np.array([150, 100, 100], dtype=np.uint8)[:, None, None], (1, 3, 8, 8))
    turned = vary(red, chances(0.5, 0.5, 1, 0.5, 0.5, 0.5))[0, :, 0, 0] / 255
    assert colorsys.rgb_to_hsv(*turned)[0] * 2 * np.pi == pytest.approx(HUE, abs=0.06)
    stretched = vary(red, chances(0.5, 0.5, 0.5, 1, 0.5, 0.5))[0, :, 0, 0].astype(float)
    assert stretched.max() - stretched.min() == pytest.approx(50 * np.exp(SATURATION), abs=1)
    assert stretched.mean() == pytest.approx(350 / 3, abs=1)
    grey = np.full((1, 3, 8, 8), 90, dtype=np.uint8)
    assert np.array_equal(vary(grey, chances(0.5, 0.5, 0.9, 0.1, 0.5, 0.5)), grey)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_and_brightness(channels: int) -> None:
    planes = squares(1, channels)
    more = vary(planes, chances(0.5, 0.5, 0.5, 0.5, 1, 0.5)).astype(float)
    assert more.std() / planes.std() == pytest.approx(np.exp(CONTRAST), abs=0.02)
    lighter = vary(planes, chances(0.5, 0.5, 0.5, 0.5, 0.5, 1)).astype(float)
    assert lighter.mean() - planes.mean() == pytest.approx(255 * BRIGHTNESS, abs=0.5)
    assert vary(np.full_like(planes, 250), chances(*[0.999] * CHANCES)).max() == 255


def test_a_tint_is_a_factor_on_each_channel() -> None:
    grey = np.full((1, 3, 8, 8), 100, dtype=np.uint8)
    tinted = vary(grey, chances(*[0.5] * 6, 1, 0.5, 0))[0, :, 0, 0].astype(float)
    assert tinted == pytest.approx(100 * np.exp([TINT, 0, -TINT]), abs=0.5)


def test_photographs_in_tiles_are_shown_at_smaller_scales_too() -> None:
    picture = (
        np.indices((96, 96)).sum(0, keepdims=True).astype(np.uint8).transpose(1, 2, 0)
    )  # rises by 1 a pixel
    source = Pictures(
        read=lambda row: picture, rows=np.arange(1), names="p", description="p", framing="tiles"
    )
    chance = np.array([[0.0, 0.5, 0.5, scale] for scale in (0.1, 0.5, 0.9)])
    index = np.zeros(3, dtype=np.int64)
    steps = [np.diff(tile[16, 4:-4, 0].astype(float)).mean() for tile in tiles(source, 32, index, chance)]
    assert steps == pytest.approx([1, 1 / COPIES[0], 1 / COPIES[1]], rel=0.03)
    # A copy that is smaller than a tile is left out.
    assert tiles(source, 64, index, chance)[2].shape == (64, 64, 1)


def tiles(source: Pictures, size: int, index: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return TileView(source, size, copies=True).batch(index, index, chance)


def test_variation_is_for_training_alone_and_a_function_of_the_draw() -> None:
    plain, varied = open_images("photos"), open_images("photos", vary=True)
    assert not torch.equal(plain[(0, 3)], varied[(0, 3)])
    assert torch.equal(varied[(0, 3)], open_images("photos", vary=True)[(5, 3)])
    still, eval_too = (open_images("photos", split="validation", vary=on) for on in (False, True))
    assert torch.equal(still[3], eval_too[3])


def test_all_photos_keep_the_test_photographs_of_photos() -> None:
    names = [set(files) for files in ALL_PHOTOS.values()]
    assert sum(map(len, names)) == len(set.union(*names)) == 18
    assert ALL_PHOTOS["test"] == PHOTOS["test"]
    ours, theirs = (open_images(name, split="test") for name in ("all_photos", "photos"))
    assert len(ours) == len(theirs)
    assert torch.equal(ours[11], theirs[11])
    assert open_images("all_photos", split="validation").item_name(-1).startswith("grace_hopper.jpg")

"""Emoji out of the system's colour font."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from gmvq.data import open_images
from gmvq.data.emoji import _groups, find_font

fonts = pytest.importorskip("fontTools.ttLib", reason="fonttools is not installed")
pytest.importorskip("PIL", reason="pillow is not installed")


@pytest.fixture(scope="module")
def font() -> Path:
    try:
        return find_font()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_splits_are_disjoint_and_complete(font: Path) -> None:
    splits = [open_images("emoji", split=split, size=64) for split in ("train", "validation", "test")]
    names = [{dataset.item_name(i) for i in range(len(dataset))} for dataset in splits]
    assert sum(map(len, names)) == len(set.union(*names))
    assert len(names[0]) > 5 * len(names[1]) > 0
    assert len(open_images(font, split="test")) == len(names[2])


def test_glyphs_lie_whole_on_white(font: Path) -> None:
    dataset = open_images("emoji", size=64, flip=False)
    image = dataset[(10, 3)]
    assert image.shape == (3, 64, 64)
    assert_close(image[:, 0, 0], torch.ones(3))
    assert image.min() < 0.9
    assert_close(image, dataset[(10, 4)], rtol=0, atol=0)  # objects are not cropped
    assert open_images("emoji", size=32, channels=1)[10].shape == (1, 32, 32)


def test_variants_of_a_picture_stay_together(font: Path) -> None:
    with fonts.TTFont(font, lazy=True) as opened:
        names = list(opened["CBDT"].strikeData[0])
        groups = dict(zip(names, _groups(opened, names), strict=True))
    sizes: dict[str, int] = {}
    for group in groups.values():
        sizes[group] = sizes.get(group, 0) + 1
    assert groups["u1F44D"] == "1F44D"
    assert sizes["1F44D"] == 6  # thumbs up: yellow and five skin tones
    assert groups["u1F468"] == groups["u1F469"] == groups["u1F9D1"] == "1F9D1"
    assert sizes["1F3C3"] >= 18  # runners: three genders, six tones
    assert sizes["1F33E 1F9D1"] == 18  # farmers, whose ligature begins with the ear of rice


def test_fonts_that_do_not_serve(tmp_path: Path) -> None:
    (tmp_path / "x.ttf").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="as a font"):
        open_images(tmp_path / "x.ttf")
    empty = fonts.TTFont()
    empty.setGlyphOrder([".notdef"])
    empty.save(tmp_path / "plain.ttf")
    with pytest.raises(ValueError, match="no colour bitmaps"):
        open_images(tmp_path / "plain.ttf")


def test_no_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gmvq.data.emoji._FONT_FOLDERS", (str(tmp_path),))
    with pytest.raises(FileNotFoundError, match="apt install fonts-noto-color-emoji"):
        open_images("emoji")

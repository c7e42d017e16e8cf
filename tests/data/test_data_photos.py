"""The built-in photographs, and what every dataset promises: shapes, range, determinism, clear errors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gmvq.data import ImageDataset, Pictures, open_images
from gmvq.data.photos import PHOTOS
from gmvq.data.randomness import fraction_of, permutation, uniforms

pytest.importorskip("PIL", reason="pillow is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("split", "count"), [("train", 3760), ("validation", 216), ("test", 776)])
def test_photos_have_the_right_number_shape_and_range(split: str, count: int, channels: int) -> None:
    dataset = open_images("photos", split=split, channels=channels)
    image = dataset[7]
    assert len(dataset) == count
    assert image.shape == (channels, 32, 32)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    assert split in dataset.description
    assert str(count) in dataset.description
    assert dataset.label(0) is None
    assert dataset.skipped == []


def test_photos_are_split_by_photograph() -> None:
    names = [set(files) for files in PHOTOS.values()]
    assert sum(map(len, names)) == len(set.union(*names)) == 10
    assert set(PHOTOS["test"]) == {"astronaut.png", "china.jpg", "flower.jpg"}


def test_eval_tiles_are_the_grid_of_the_photograph() -> None:
    from PIL import Image

    dataset = open_images("photos", split="validation", size=64)
    assert dataset.item_name(1) == "coffee.png[y=0,x=64]"
    import skimage

    photo = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "coffee.png"))
    expected = torch.from_numpy(photo[0:64, 64:128].copy()).permute(2, 0, 1) / 255
    assert_close(dataset[1], expected)


def test_a_draw_is_a_pure_function_of_seed_and_number() -> None:
    one, two = open_images("photos"), open_images("photos")
    state = torch.get_rng_state()
    assert_close(one[(3, 1000)], two[(5, 1000)], rtol=0, atol=0)  # in training the draw decides, not the item
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one[(3, 1000)], one[(3, 1001)])
    assert not torch.equal(one[(3, 1000)], open_images("photos", seed=1)[(3, 1000)])
    assert_close(one[12], one[(12, 12)], rtol=0, atol=0)
    assert_close(one[-1], one[len(one) - 1], rtol=0, atol=0)


def test_batches_equal_single_items() -> None:
    dataset = open_images("photos")
    pairs = [(i, 50 + i) for i in range(20)]
    assert_close(torch.stack(dataset.__getitems__(pairs)), torch.stack([dataset[pair] for pair in pairs]))


def test_flips_mirror_half_of_the_draws() -> None:
    plain, flipped = open_images("photos", flip=False), open_images("photos")
    mirrored = 0
    for draw in range(200):
        image, other = plain[(0, draw)], flipped[(0, draw)]
        if not torch.equal(image, other):
            mirrored += 1
            assert_close(image.flip(-1), other, rtol=0, atol=0)
    assert 70 < mirrored < 130


def test_every_photograph_is_equally_likely_in_training() -> None:
    dataset = open_images("photos", channels=1, augment=True, split="test")
    means = torch.stack([dataset[(0, draw)].mean() for draw in range(900)])
    grid = open_images("photos", channels=1, split="test")
    per_photo: dict[str, list[torch.Tensor]] = {}
    for i in range(len(grid)):
        per_photo.setdefault(grid.item_name(i).split("[")[0], []).append(grid[i].mean())
    expected = torch.stack([torch.stack(tiles).mean() for tiles in per_photo.values()]).mean()
    assert_close(means.mean(), expected, atol=0.03, rtol=0)


def test_items_past_the_end_raise() -> None:
    dataset = open_images("photos", split="validation")
    with pytest.raises(IndexError, match="out of range for a dataset of 216"):
        dataset[216]
    assert sum(1 for _ in open_images("photos", split="validation", size=200)) == len(
        open_images("photos", split="validation", size=200)
    )


def test_photographs_smaller_than_the_tile_are_skipped() -> None:
    dataset = open_images("photos", size=400)
    assert [name for name, _ in dataset.skipped] == ["chelsea.png"]
    with pytest.raises(ValueError, match="no photograph is as large as 5000"):
        open_images("photos", size=5000)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "val"}, ValueError, "split must be one of 'train', 'validation', 'test', got 'val'"),
        ({"size": 0}, ValueError, "size must be positive"),
        ({"channels": 2}, ValueError, r"channels must be 3 \(RGB\) or 1"),
        ({"split_fractions": (0.6, 0.4)}, ValueError, "in sum below 1"),
        ({"split_fractions": (-0.1, 0.1)}, ValueError, "not negative"),
        ({"path": "photo"}, FileNotFoundError, "Did you mean 'photos'.*Names: photos, fashion_mnist"),
        ({"path": "/no/such/folder"}, FileNotFoundError, "there is no '/no/such/folder'"),
        ({"path": ""}, FileNotFoundError, "Names: photos"),
        ({"path": "hf:"}, ValueError, "needs the name of a data set"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_images(**arguments)  # pyright: ignore[reportArgumentType]


def test_a_folder_of_ones_own_by_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.warns(UserWarning, match=r"'photos' is the built-in set; what lies here .* is '\./photos'"):
        assert len(open_images("photos", split="test")) == 776
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_images("photos", split="test")
    with pytest.raises(ValueError, match="no readable image in photos"):
        open_images("./photos")


def test_a_misspelt_path_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*pictures"):
        open_images(tmp_path / "pictuers")


def test_random_numbers_are_uniform_and_fixed_for_ever() -> None:
    values = uniforms(0, np.arange(20_000), 2)
    assert_close(values.mean(axis=0), np.full(2, 0.5), atol=0.01, rtol=0)
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(values[1:, 0], values[:-1, 0])[0, 1]) < 0.03
    assert sorted(permutation(3, 1, 1000).tolist()) == list(range(1000))
    assert not np.array_equal(permutation(3, 1, 1000), permutation(3, 2, 1000))
    # Pinned: a change here changes every split and every data order of every user.
    assert_close(fraction_of("photos/a.png"), 0.3210575762089718, atol=1e-12, rtol=0)
    assert_close(uniforms(7, np.array([5]), 1).item(), 0.9233119169216317, atol=1e-12, rtol=0)
    assert permutation(0, 0, 6).tolist() == [2, 5, 4, 1, 0, 3]


def test_a_source_of_ones_own() -> None:
    def grey(row: int) -> np.ndarray:
        return np.full((8, 12, 3), 85 * row, dtype=np.uint8)

    source = Pictures(grey, np.arange(3), "grey", "flat grey", labels=[0, 1, 2], framing="whole")
    dataset = ImageDataset(source, size=4, channels=3)
    assert_close(dataset[2], torch.full((3, 4, 4), 170 / 255))
    assert dataset.label(2) == 2
    assert dataset.item_name(2) == "grey:2"

"""Folders of images: every kind of file, broken ones, splits and classes."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gmvq.data import open_images

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")

ALL = {"split": "train", "split_fractions": (0.0, 0.0), "augment": False}


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def one(path: Path, size: int, channels: int = 3) -> torch.Tensor:
    return open_images(path, size=size, channels=channels, augment=False)[0]


def test_exif_rotation_is_applied(tmp_path: Path, picture) -> None:
    pixels = picture(height=32, width=32)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    upright = one(save(tmp_path / "plain.png", np.rot90(pixels, -1)), 32)
    assert_close(one(save(tmp_path / "turned.png", pixels, exif=exif), 32), upright)


def test_sixteen_bit_grey_keeps_its_scale(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    image = one(save(tmp_path / "deep.png", values), 32, channels=1)
    assert_close(image[0], torch.from_numpy(values / 65535).float(), atol=1 / 255, rtol=0)


def test_wide_integers_are_never_clipped(tmp_path: Path) -> None:
    save(tmp_path / "fits.tiff", np.full((16, 16), 65535, dtype=np.int32))
    assert one(tmp_path / "fits.tiff", 16).min() == 1
    for name, value in (("large", 65536), ("below", -1)):
        save(tmp_path / f"{name}.tiff", np.full((16, 16), value, dtype=np.int32))
        with (
            pytest.warns(UserWarning, match=name),
            pytest.raises(ValueError, match=rf"whole numbers from {value} to"),
        ):
            one(tmp_path / f"{name}.tiff", 16)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[:, 8:, 3] = 255  # left half transparent, right half opaque black
    image = one(save(tmp_path / "a.png", pixels), 16)
    assert_close(image[:, :, :8], torch.ones(3, 16, 8))
    assert_close(image[:, :, 8:], torch.zeros(3, 16, 8))


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[8:] = 1
    image = Image.fromarray(pixels).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "p.gif", transparency=1)
    assert_close(one(tmp_path / "p.gif", 16)[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert_close(one(tmp_path / "p.gif", 16)[:, 15, 0], torch.ones(3))


def test_cmyk_jpeg_grey_and_bilevel(tmp_path: Path, picture) -> None:
    pixels = picture(height=32, width=32)
    expected = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "c.jpg", quality=100, subsampling=0)
    assert (one(tmp_path / "c.jpg", 32) - expected).abs().mean() < 0.05
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    assert_close(one(save(tmp_path / "g.png", grey), 32), one(tmp_path / "g.png", 32, 1).expand(3, 32, 32))
    Image.fromarray(grey).convert("1").save(tmp_path / "b.png")
    assert set(one(tmp_path / "b.png", 32).unique().tolist()) == {0.0, 1.0}


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert_close(one(tmp_path / "a.gif", 16)[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("name", ["a.bmp", "a.webp", "a.tiff", "a.png", "a.ppm", "no_suffix"])
def test_formats(tmp_path: Path, picture, name: str) -> None:
    pixels = picture(height=20, width=20)
    kind = {"format": "PNG"} if name == "no_suffix" else {"lossless": True} if name == "a.webp" else {}
    image = one(save(tmp_path / name, pixels, **kind), 20)
    assert_close(image, torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)


def test_eval_takes_the_centre_and_small_images_grow(tmp_path: Path) -> None:
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 255
    assert_close(one(save(tmp_path / "wide.png", pixels), 16), torch.ones(3, 16, 16))
    assert one(save(tmp_path / "tiny.png", pixels[:2, :3]), 16).shape == (3, 16, 16)


def test_training_crops_scale_and_place_at_random(tmp_path: Path, picture) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.png", picture(i, 60, 80))
    dataset = open_images(tmp_path, size=24, flip=False, split_fractions=(0, 0))
    assert_close(dataset[(3, 9)], dataset[(3, 9)], rtol=0, atol=0)
    assert not torch.equal(dataset[(3, 9)], dataset[(3, 10)])
    assert not torch.equal(dataset[(3, 9)], dataset[(4, 9)])
    square = open_images(
        save(tmp_path / "s" / "x.png", picture(0, 24, 24)), size=24, augment=True, flip=False
    )
    assert_close(square[(0, 1)], square[(0, 2)], rtol=0, atol=0)  # already at its size: never cropped


def test_bad_files_are_skipped_and_counted(tmp_path: Path, picture) -> None:
    for i in range(3):
        save(tmp_path / "deep" / "er" / f"{i}.png", picture(i))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.png").write_text("not seen")
    dataset = open_images(tmp_path, **ALL)
    assert [dataset.item_name(i) for i in range(3)] == [f"deep/er/{i}.png" for i in range(3)]
    assert dict(dataset.skipped) == {
        "notes.txt": "another kind of file: .txt",
        "text.png": "not an image in any format that is read",
        "zero.jpg": "the file is empty",
    }
    assert "3 files skipped" in dataset.description


def test_a_truncated_file_is_replaced_and_reported_once(tmp_path: Path, picture) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.jpg", picture(i, 64, 64), quality=95)
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    dataset = open_images(tmp_path, **ALL)
    with pytest.warns(UserWarning, match=r"1\.jpg cannot be read .*truncated.*the next readable image"):
        image = dataset[1]
    assert_close(image, dataset[2], rtol=0, atol=0)
    assert_close(dataset[1], image, rtol=0, atol=0)
    assert [name for name, _ in dataset.skipped] == ["1.jpg"]


def test_a_folder_where_nothing_decodes_ends(tmp_path: Path, picture) -> None:
    whole = save(tmp_path / "0.jpg", picture(0, 64, 64)).read_bytes()
    (tmp_path / "0.jpg").write_bytes(whole[: len(whole) // 2])
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="none of the 1 images"),
    ):
        open_images(tmp_path, **ALL)[0]


def test_huge_images_are_refused(tmp_path: Path, picture) -> None:
    save(tmp_path / "good.png", picture())

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    for side in (12_000, 60_000):  # PIL warns above the one size and raises above the other
        header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
        png = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 9))
            + chunk(b"IEND", b"")
        )
        (tmp_path / f"bomb{side}.png").write_bytes(png)
    dataset = open_images(tmp_path, **ALL)
    assert len(dataset) == 1
    assert all("too many pixels" in why for _, why in dataset.skipped)
    with pytest.raises(ValueError, match=r"cannot use .*bomb12000\.png: too many pixels"):
        open_images(tmp_path / "bomb12000.png")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no file at all"),
        (["a.txt", "b.csv"], r"found 2 files \(.*another kind of file: .txt.*such as a.txt, b.csv"),
        (["a.png"], "1 x the file is empty"),
    ],
)
def test_a_folder_without_images_says_what_it_holds(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path)


def test_splits_by_hash_are_disjoint_complete_and_stable(tmp_path: Path, picture) -> None:
    for i in range(40):
        save(tmp_path / f"{i}.png", picture(i, 8, 8))
    splits = {split: _names(tmp_path, split, (0.2, 0.2)) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 40
    assert all(splits.values())
    for i in range(40, 60):
        save(tmp_path / f"{i}.png", picture(i, 8, 8))
    for split, names in splits.items():
        assert names <= _names(tmp_path, split, (0.2, 0.2))


@pytest.mark.parametrize("count", range(3, 10))
def test_tiny_folders_have_no_empty_split(tmp_path: Path, picture, count: int) -> None:
    for i in range(count):
        save(tmp_path / f"{i}.png", picture(i, 8, 8))
    splits = [_names(tmp_path, split, (0.1, 0.1)) for split in ("train", "validation", "test")]
    assert all(splits)
    assert sum(map(len, splits)) == len(set.union(*splits)) == count


def test_two_images_cannot_be_split_three_ways(tmp_path: Path, picture) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.png", picture(i, 8, 8))
    with pytest.raises(
        ValueError, match=r"2 images cannot be divided.*: 3 are the least.*split_fractions=\(0, 0\)"
    ):
        open_images(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"2 images cannot be divided.*Skipped in .*: 1 files .*notes\.txt"):
        open_images(tmp_path)
    assert len(open_images(tmp_path, split_fractions=(0, 0))) == 2
    with pytest.raises(ValueError, match="split 'test' is empty: its share is 0"):
        open_images(tmp_path, split="test", split_fractions=(0, 0))


def test_split_folders_and_classes(tmp_path: Path, picture) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                save(tmp_path / split / name / f"{i}.png", picture(i, 8, 8))
    validation = open_images(tmp_path, split="validation")
    assert {validation.item_name(i) for i in range(4)} == {
        f"val/{n}/{i}.png" for n in ("cat", "dog") for i in (0, 1)
    }
    assert [validation.label(i) for i in range(4)] == [0, 0, 1, 1]
    train, test = _names(tmp_path, "train", (0.1, 0.3)), _names(tmp_path, "test", (0.1, 0.3))
    assert len(train) + len(test) == len(train | test) == 12  # the missing split comes out of train
    assert len(_names(tmp_path, "train", (0.1, 0.0))) == 12


def test_classes_need_every_image_in_a_subfolder(tmp_path: Path, picture) -> None:
    for name in ("b/0.png", "a/0.png", "a/x/1.png"):
        save(tmp_path / name, picture(0, 8, 8))
    dataset = open_images(tmp_path, **ALL)
    assert {dataset.item_name(i): dataset.label(i) for i in range(3)} == {
        "a/0.png": 0,
        "a/x/1.png": 0,
        "b/0.png": 1,
    }
    save(tmp_path / "loose.png", picture(0, 8, 8))
    assert open_images(tmp_path, **ALL).label(0) is None


def test_one_file_is_every_split(tmp_path: Path, picture) -> None:
    path = save(tmp_path / "x.png", picture())
    for split in ("train", "validation", "test"):
        assert len(open_images(path, split=split)) == 1
    (tmp_path / "x.xyz").write_text("?")
    with pytest.raises(ValueError, match=r"cannot use .*x\.xyz: not an image.*\.npy"):
        open_images(tmp_path / "x.xyz")


def _names(path: Path, split: str, fractions: tuple[float, float]) -> set[str]:
    dataset = open_images(path, split=split, split_fractions=fractions)
    return {dataset.item_name(i) for i in range(len(dataset))}

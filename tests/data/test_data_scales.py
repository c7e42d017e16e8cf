"""Pictures much larger than the crop: random scales and places, tiles, bounded memory, the same in every worker."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from gmvq.data import make_loader, open_images
from gmvq.data.decode import decode, header_shape
from gmvq.data.pictures import Pictures
from gmvq.data.randomness import uniforms
from gmvq.data.scales import ScaleView

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

SIZE = 32
Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    """Twelve photographs of 520 x 600 in JPEG, one of them turned by EXIF, and a text file."""
    root = tmp_path_factory.mktemp("large")
    for i in range(12):
        image, exif = Image.fromarray(picture(i, 520, 600)), Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        image.save(root / f"{i:02}.jpg", quality=95, exif=exif)
    (root / "notes.txt").write_text("no picture")
    return root


def source_of(images: list[np.ndarray], reads: list[int] | None = None) -> Pictures:
    def read(row: int, reduce: int = 1) -> Any:
        if reads is not None:
            reads.append(row)
        return Image.fromarray(images[row]).reduce(reduce)

    shapes = np.array([image.shape[:2] for image in images])
    return Pictures(read, np.arange(len(images)), "picture", "pictures", all_shapes=shapes)


def smooth(picture: Picture, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture(1, 20, 20)).resize((width, height), Image.Resampling.BICUBIC))


def drawn(view: ScaleView, draws: range, seed: int = 0) -> np.ndarray:
    numbers = np.array(draws)
    return view.batch(np.zeros_like(numbers), numbers, uniforms(seed, numbers, 5)[:, 1:])


def test_large_pictures_are_recognised_and_whole_ones_can_be_asked_for(folder: Path) -> None:
    large, whole = open_images(folder), open_images(folder, crops="whole")
    assert large.scales
    assert "pictures at random scales and places" in large.description
    assert not whole.scales
    assert len(whole) < 12 < len(large)
    assert not open_images(folder, size=160).scales
    assert open_images("photos", crops="scales").scales
    assert not open_images("photos").scales
    with pytest.raises(ValueError, match="crops='scales' needs pictures whose sizes"):
        open_images("fashion_mnist", crops="scales")


def table_of(names: list[str], data: list[bytes]) -> Any:
    return pa.table({"image": [{"bytes": one, "path": name} for name, one in zip(names, data, strict=True)]})


def packed(kind: str, names: list[str], data: list[bytes], out: Path) -> Path:
    """Encoded pictures as a Parquet file, a folder that ``datasets`` saved, or a shard."""
    if kind == "parquet":
        pq.write_table(table_of(names, data), out / "pictures.parquet")
        return out / "pictures.parquet"
    if kind == "saved":
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        datasets.Dataset(table_of(names, data)).save_to_disk(out / "saved")
        return out / "saved"
    with tarfile.open(out / "shard.tar", "w") as archive:
        for name, one in zip(names, data, strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(one)
            archive.addfile(member, io.BytesIO(one))
    return out / "shard.tar"


@pytest.mark.parametrize("kind", ["parquet", "saved", "shard"])
def test_tables_and_shards_are_read_as_folders_are(folder: Path, tmp_path: Path, kind: str) -> None:
    """The same crops and the same tiles; headers alone are read at the start, and what has none is named."""
    names = sorted(name for name in os.listdir(folder) if ".jpg" in name)
    data = [(folder / name).read_bytes() for name in names]
    path = packed(kind, names, data, tmp_path)
    options: Any = {"split_fractions": (0.0, 0.0), "seed": 3}
    ours, theirs = open_images(path, **options), open_images(folder, **options)
    assert ours.scales
    assert "12 pictures at random scales and places" in ours.description
    pairs = [(0, draw) for draw in range(12)]
    assert_close(
        torch.stack(ours.__getitems__(pairs)), torch.stack(theirs.__getitems__(pairs)), rtol=0, atol=0
    )
    ours, theirs = open_images(path, augment=False, **options), open_images(folder, augment=False, **options)
    assert len(ours) == len(theirs)
    for tile in (0, len(ours) // 3, len(ours) - 1):
        assert_close(ours[tile], theirs[tile], rtol=0, atol=0)
    (tmp_path / "broken").mkdir()
    path = packed(kind, names, [data[0], b"no picture", *data[2:]], tmp_path / "broken")
    broken = open_images(path, augment=False, **options)
    assert len(broken) < len(ours)
    [(_, reason)] = broken.skipped
    assert reason == "not an image in any format that is read"
    assert not open_images(path, crops="whole", augment=False, **options).skipped  # nothing is looked at


def test_cells_without_bytes_are_named(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "gaps.parquet"
    good = {"bytes": (folder / "00.jpg").read_bytes(), "path": None}
    pq.write_table(pa.table({"image": [good, None, {"bytes": None, "path": None}, good]}), file)
    dataset = open_images(file, split_fractions=(0.0, 0.0), augment=False)
    assert dataset.scales
    assert [reason for _, reason in dataset.skipped] == 2 * ["the cell holds no bytes"]
    plain = pa.table({"image": [good["bytes"], None]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    dataset = open_images(tmp_path / "plain.parquet", split_fractions=(0.0, 0.0), augment=False)
    assert (dataset.scales, len(dataset.skipped)) == (True, 1)


def test_a_stream_does_not_tell_sizes_and_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    names = ["00.jpg", "01.jpg"]
    path = packed("parquet", names, [(folder / name).read_bytes() for name in names], tmp_path)
    options: Any = {"split_fractions": (0.0, 0.0)}
    assert not open_images(f"stream:{path}", **options).scales
    with pytest.raises(ValueError, match="give the path of a table without stream:"):
        open_images(f"stream:{path}", crops="scales", **options)


def test_tiles_cover_every_pixel_of_every_picture(folder: Path) -> None:
    dataset = open_images(folder, split="test")
    files = {name: np.asarray(decode(folder / name, 3)) for name in os.listdir(folder) if ".jpg" in name}
    covered: dict[str, np.ndarray] = {}
    for i in range(len(dataset)):
        name, _, place = dataset.item_name(i).partition("[")
        y, x = (int(part.split("=")[1]) for part in place.rstrip("]").split(","))
        seen = covered.setdefault(name, np.zeros(files[name].shape[:2], dtype=bool))
        seen[y : y + SIZE, x : x + SIZE] = True
        if i % 97 == 0:
            expected = torch.from_numpy(files[name][y : y + SIZE, x : x + SIZE].copy()).permute(2, 0, 1) / 255
            assert_close(dataset[i], expected)
    assert covered
    assert all(seen.all() for seen in covered.values())


def test_a_sample_of_the_tiles_is_spread_over_all_pictures(folder: Path) -> None:
    dataset = open_images(folder, split="test", split_fractions=(0.1, 0.4))
    names = {dataset.item_name(i).split("[")[0] for i in range(len(dataset))}
    dataset.keep_tiles(10)
    assert len(dataset) == 10
    assert {dataset.item_name(i).split("[")[0] for i in range(10)} == names
    assert "(of " in dataset.description


def test_crops_have_every_scale_between_the_crop_and_the_picture(picture: Picture) -> None:
    # The red channel is a ramp over the height: its slope in a crop says how much was scaled down.
    ramp = np.zeros((512, 512, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(512)[:, None] // 2
    crops = drawn(ScaleView(source_of([ramp]), SIZE, 3, 0, training=True), range(400)).astype(float)
    # Pixels of the picture per pixel of the crop: 1 to 16, and log-uniform.
    factors = (crops[:, -4, :, 0] - crops[:, 4, :, 0]).mean(1) * 2 / (SIZE - 8)
    assert 0.9 < factors.min() < 1.2
    assert 13 < factors.max() < 16.5
    assert abs(np.log2(factors).mean() - 2.0) < 0.25


def test_a_crop_is_the_part_of_the_picture_that_its_chance_says(picture: Picture) -> None:
    image = smooth(picture, 300, 400)
    view = ScaleView(source_of([image]), SIZE, 3, 0, training=True)
    chance = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.3, 0.6]])
    whole, corner, part = view.batch(np.zeros(3, int), np.arange(3), chance)
    # The largest square in the left upper corner; the last 32 x 32 as they are; something in between.
    resized = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=(0, 0, 300, 300))
    assert_close(torch.from_numpy(whole).float(), torch.from_numpy(np.array(resized)).float(), atol=6, rtol=0)
    assert np.array_equal(corner, image[-SIZE:, -SIZE:])
    side = SIZE * (300 / SIZE) ** 0.5
    box = (0.6 * (400 - side), 0.3 * (300 - side), 0.6 * (400 - side) + side, 0.3 * (300 - side) + side)
    resized = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=box)
    assert_close(torch.from_numpy(part).float(), torch.from_numpy(np.array(resized)).float(), atol=6, rtol=0)


def test_a_draw_depends_on_seed_and_number_alone_whatever_is_kept(picture: Picture) -> None:
    images = [picture(i, 200 + i, 220) for i in range(7)]
    few = 3 * 4 * 200 * 220 * 3 // 3
    make = partial(ScaleView, source_of(images), SIZE, 3, 0, training=True, cache_bytes=few)
    straight, jumping = make(), make()
    one = np.concatenate([drawn(straight, range(start, start + 16)) for start in range(0, 256, 16)])
    # The same draws in another order: later ones first, so that slots hold pictures of other turns.
    parts = {start: drawn(jumping, range(start, start + 16)) for start in reversed(range(0, 256, 16))}
    assert np.array_equal(one, np.concatenate([parts[start] for start in sorted(parts)]))
    assert not np.array_equal(one[:16], one[16:32])


def test_a_bounded_memory_decodes_each_picture_for_several_crops_and_shows_all(picture: Picture) -> None:
    reads: list[int] = []
    images = [np.full((160, 160, 3), 20 * i, dtype=np.uint8) for i in range(10)]
    view = ScaleView(source_of(images, reads), SIZE, 3, 0, training=True, cache_bytes=3 * 2 * 160 * 160 * 3)
    crops = np.concatenate([drawn(view, range(start, start + 8)) for start in range(0, 400, 8)])
    shown = np.unique(crops.reshape(len(crops), -1).mean(1).round(), return_counts=True)
    assert shown[0].tolist() == [20 * i for i in range(10)]
    # Eight crops for each decode, on average; a slot that is not drawn is not decoded.
    assert 30 <= len(reads) <= 400 / 8 + 8
    assert shown[1].min() > 15


def test_workers_read_what_one_process_reads(folder: Path) -> None:
    batches = []
    for workers in (0, 2):
        loader = make_loader(open_images(folder), batch_size=16, shuffle=True, num_workers=workers)
        iterator = iter(loader)
        batches.append(torch.stack([torch.stack(list(next(iterator))) for _ in range(4)]))
    assert_close(batches[0], batches[1], rtol=0, atol=0)


def test_an_unreadable_picture_is_replaced_and_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*.jpg"):
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.name == "05.jpg" else data)
    dataset = open_images(tmp_path, split_fractions=(0, 0))
    with pytest.warns(UserWarning, match=r"05\.jpg cannot be read"):
        dataset.__getitems__([(0, draw) for draw in range(60)])
    assert [name for name, _ in dataset.skipped] == ["05.jpg"]


def test_pictures_smaller_than_the_crop_are_left_out(picture: Picture) -> None:
    source = source_of([picture(0, 300, 300), picture(1, 20, 300)])
    view = ScaleView(source, SIZE, 3, 0, training=False)
    assert view.pictures == 1
    assert source.skipped == [("picture:1", "smaller than 32 x 32")]
    with pytest.raises(ValueError, match="no picture is as large as 500 x 500"):
        ScaleView(source_of([picture(0, 300, 300)]), 500, 3, 0, training=False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_pictures_are_decoded_smaller(picture: Picture, kind: str, reduce: int) -> None:
    pixels = smooth(picture, 333, 407)
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(file, kind, **options)
    small = np.asarray(decode(file.getvalue(), 3, reduce)).astype(float)
    expected = np.asarray(Image.fromarray(pixels).reduce(reduce)).astype(float)
    assert small.shape == expected.shape == (-(-333 // reduce), -(-407 // reduce), 3)
    assert np.abs(small[:-1, :-1] - expected[:-1, :-1]).mean() < 3


def test_the_header_says_how_a_picture_stands(folder: Path) -> None:
    assert header_shape(folder / "00.jpg") == (520, 600)
    assert header_shape(folder / "03.jpg") == (600, 520)
    assert decode(folder / "03.jpg", 3).size == (520, 600)

"""What else lies in folders: links, FIFOs, formats that are not read, and what ``datasets`` saved."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gmvq.data import open_images, open_signals
from gmvq.data.decode import FORMATS, decode, image_suffixes
from gmvq.data.folders import walk

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")

ALL = {"split": "train", "split_fractions": (0.0, 0.0), "augment": False}


def save(path: Path, picture, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, 8, 8)).save(path)


def test_links_are_followed_or_reported(tmp_path: Path, picture) -> None:
    root = tmp_path / "root"
    save(root / "cat" / "0.png", picture)
    save(tmp_path / "elsewhere" / "1.png", picture)
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "again").symlink_to(tmp_path / "elsewhere")
    (root / "a-file.png").symlink_to(root / "cat" / "0.png")
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    (root / "round").symlink_to(root / "round")
    dataset = open_images(root, **ALL)
    names = {dataset.item_name(i) for i in range(len(dataset))}
    assert {"a-file.png", "cat/0.png"} < names
    assert len(names & {"dog/1.png", "cat/again/1.png"}) == len(names) - 2 == 1
    skipped = dict(dataset.skipped)
    assert skipped["cat/up"] == "a link to a folder that is listed already"
    assert skipped.keys() & {"dog", "cat/again"}
    assert skipped["gone.png"] == "a link to nothing"
    assert "round" in skipped


def test_a_linked_split_is_a_split(tmp_path: Path, picture) -> None:
    for i in range(4):
        save(tmp_path / "far" / "cat" / f"{i}.png", picture, i)
        save(tmp_path / "root" / "test" / "cat" / f"{i}.png", picture, i)
    (tmp_path / "root" / "train").symlink_to(tmp_path / "far")
    train = open_images(tmp_path / "root", **ALL)
    assert [train.item_name(i) for i in range(4)] == [f"train/cat/{i}.png" for i in range(4)]
    assert len(open_images(tmp_path / "root", split="test")) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("suffix", [".png", ".parquet", ".wav", ".npy", ".csv"])
def test_fifos_are_not_opened(tmp_path: Path, picture, suffix: str) -> None:
    """To open one would wait for a writer that never comes."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / f"pipe{suffix}")
    for open_any in (open_images, open_signals):
        with pytest.raises(ValueError, match="a FIFO, socket or device: not opened"):
            open_any(folder)
    save(folder / "0.png", picture)
    assert dict(open_images(folder, **ALL).skipped) == {
        f"pipe{suffix}": "a FIFO, socket or device: not opened"
    }
    for open_any in (open_images, open_signals):
        with pytest.raises(ValueError, match=r"is a FIFO, socket or device|holds signals|holds images"):
            open_any(folder / f"pipe{suffix}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_every_kind_of_folder_says_what_is_left_out(tmp_path: Path, picture) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    Image.fromarray(picture(0, 8, 8)).save(buffer, format="PNG")
    for name in ("tables", "series", "idx"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / "pipe")
    pq.write_table(pa.table({"image": [buffer.getvalue()]}), tmp_path / "tables" / "x.parquet")
    np.save(tmp_path / "series" / "x.npy", np.arange(20.0))
    (tmp_path / "idx" / "train-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + b"\0\0\0\1" * 3 + b"\0")
    for dataset in (
        open_images(tmp_path / "tables", **ALL),
        open_images(tmp_path / "idx", **ALL),
        open_signals(tmp_path / "series", **ALL),
    ):
        assert dataset.skipped == [("pipe", "a FIFO, socket or device: not opened")]


def test_folders_that_may_not_be_listed_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "0.png").touch()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("gmvq.data.folders.os.scandir", refuse)
    assert walk(tmp_path) == (["0.png"], [("shut", "the folder cannot be listed: Permission denied")])


def test_formats_outside_of_the_list_are_not_read(tmp_path: Path, picture) -> None:
    save(tmp_path / "0.png", picture)
    Image.fromarray(picture(0, 8, 8)).save(tmp_path / "a.eps")
    Image.fromarray(picture(0, 8, 8)).save(tmp_path / "b.png", format="EPS")
    assert dict(open_images(tmp_path, **ALL).skipped) == {
        "a.eps": "another kind of file: .eps",
        "b.png": "not an image in any format that is read",
    }
    assert "EPS" not in FORMATS
    assert not image_suffixes() & {".eps", ".ps", ".pdf", ".mpg", ".hdf", ".wmf"}
    assert image_suffixes() >= {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif"}


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("I;16", 0x8181, (129, 129, 129)),
        ("I;16", 0x80FF, (128, 128, 128)),
        ("CMYK", (0, 255, 0, 0), (255, 0, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("F", 0.5, (128, 128, 128)),
    ],
)
def test_modes(mode: str, pixel: object, expected: tuple[int, ...]) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (2, 2), pixel).save(buffer, format="TIFF")
    assert decode(buffer.getvalue(), 3).getpixel((0, 0)) == expected


@pytest.mark.parametrize("divided", [False, True])
def test_what_datasets_saved(tmp_path: Path, picture, divided: bool) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pictures = [Image.fromarray(picture(i, 8, 8)) for i in range(10)]
    table = datasets.Dataset.from_dict({"image": pictures, "label": list(range(10))}, features=features)
    whole = datasets.DatasetDict(train=table, test=table.select(range(3))) if divided else table
    whole.save_to_disk(str(tmp_path / "saved"))
    dataset = open_images(tmp_path / "saved", size=8, **ALL)
    assert len(dataset) == 10
    assert dataset.label(7) == 7
    assert_close(dataset[7], torch.from_numpy(picture(7, 8, 8)).permute(2, 0, 1) / 255)
    assert len(open_images(tmp_path / "saved", size=8, split="test", split_fractions=(0, 0.5))) in (
        3,
        4,
        5,
        6,
    )
    assert_close(pickle.loads(pickle.dumps(dataset))[2], dataset[2])
    notes = tmp_path / "saved" / ("dataset_dict.json" if divided else "state.json")
    notes.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        open_images(tmp_path / "saved")
    if divided:
        for splits in (["../saved/train"], "x", [3], ["train", "absent"]):
            notes.write_text(json.dumps({"splits": splits}))
            with pytest.raises(ValueError, match="is damaged"):
                open_images(tmp_path / "saved")
        notes.write_text(json.dumps({"splits": ["train", "test"]}))
        (tmp_path / "saved" / "test" / "state.json").unlink()
        os.mkfifo(tmp_path / "saved" / "test" / "state.json")
        with pytest.raises(ValueError, match="FIFO, socket or device"):
            open_images(tmp_path / "saved")


def test_a_changed_table_is_read_anew(tmp_path: Path, picture) -> None:
    """The copy that ``datasets`` keeps is of the file as it was; brackets and stars in a path are no pattern."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a[1]*" / "x.parquet"
    file.parent.mkdir()
    for seed in (0, 1):
        buffer = io.BytesIO()
        Image.fromarray(picture(seed, 8, 8)).save(buffer, format="PNG")
        pq.write_table(pa.table({"image": [buffer.getvalue()]}), file)
        dataset = open_images(file, size=8, **ALL)
        assert_close(dataset[0], torch.from_numpy(picture(seed, 8, 8)).permute(2, 0, 1) / 255)


def test_a_table_of_which_no_copy_can_be_made(
    tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "x.parquet")

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "from_parquet", full)
    with pytest.raises(
        ValueError, match=r"No space left on device; a copy of it goes to .* HF_DATASETS_CACHE"
    ):
        open_images(tmp_path / "x.parquet", **ALL)


def test_arrays_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 8, 8, 3), np.uint8))
    dataset = open_images(tmp_path / "x.npy", size=8, **ALL)
    assert isinstance(dataset._source.read.args[0], np.memmap)  # pyright: ignore


def test_what_the_notes_of_datasets_say_of_formats_is_not_done(tmp_path: Path, picture) -> None:
    """``load_from_disk`` would import jax, and open folders with two colons in their names by other file systems."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    cells = [{"bytes": b"", "path": None}] * 9
    features = datasets.Features({"image": datasets.Image(decode=False)})
    folder = tmp_path / "filecache::saved"
    datasets.Dataset.from_dict({"image": cells}, features=features).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved").rename(folder)
    state = json.loads((folder / "state.json").read_text())
    state |= {"_format_type": "jax", "_format_columns": ["image", "x"], "_split": 3}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{")
    assert len(open_images(folder, size=8, **ALL)) == 9
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": []}))
    with pytest.raises(ValueError, match="it names no files"):
        open_images(folder)

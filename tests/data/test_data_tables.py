"""Parquet files, and Hugging Face data sets by name (with the network replaced by a table in memory)."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from pictures import png
from torch.testing import assert_close

from gmvq.data import open_images

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytest.importorskip("PIL.Image", reason="pillow is not installed")


def cells(picture, count: int, height: int = 32, width: int = 32) -> list[dict[str, object]]:
    return [{"bytes": png(picture(i, height, width)), "path": f"{i}.png"} for i in range(count)]


def write(path: Path, columns: dict[str, object], **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def test_the_layout_of_cifar(tmp_path: Path, picture) -> None:
    data = tmp_path / "cifar10" / "plain_text"
    images = cells(picture, 30)
    for part in range(2):
        rows = slice(15 * part, 15 * part + 15)
        columns = {"img": images[rows], "label": list(range(30))[rows]}
        write(data / f"train-0000{part}-of-00002.parquet", columns, row_group_size=4)
    write(data / "test-00000-of-00001.parquet", {"img": images[:5], "label": [7] * 5})
    test = open_images(tmp_path / "cifar10", split="test")
    assert (len(test), test.label(0)) == (5, 7)
    assert_close(test[3], torch.from_numpy(picture(3, 32, 32)).permute(2, 0, 1) / 255)
    train, validation = (
        open_images(tmp_path / "cifar10", augment=False),
        open_images(tmp_path / "cifar10", split="validation"),
    )
    labels = [{dataset.label(i) for i in range(len(dataset))} for dataset in (train, validation)]
    assert all(labels)
    assert labels[0] | labels[1] == set(range(30))
    assert not labels[0] & labels[1]
    for i in (0, 11, len(train) - 1):  # rows, labels and names belong together across files and row groups
        row = train.label(i)
        assert_close(train[i], torch.from_numpy(picture(row, 32, 32)).permute(2, 0, 1) / 255)
        assert train.item_name(i) == f"cifar10[train]:{row}"
    assert_close(pickle.loads(pickle.dumps(train))[2], train[2], rtol=0, atol=0)


def test_one_file_is_split_by_row_and_bytes_need_no_struct(tmp_path: Path, picture) -> None:
    write(tmp_path / "x.parquet", {"pic": [cell["bytes"] for cell in cells(picture, 20)]})
    sizes = [
        len(open_images(tmp_path / "x.parquet", split=s, column="pic"))
        for s in ("train", "validation", "test")
    ]
    assert sum(sizes) == 20
    assert min(sizes) > 0


@pytest.mark.parametrize("place", ["faces.parquet", "folder"])
def test_aligned_faces_are_cropped_in_the_centre_only(tmp_path: Path, picture, place: str) -> None:
    faces = cells(picture, 4, 218, 178)
    write(tmp_path / "faces.parquet", {"image": faces})
    (tmp_path / "folder").mkdir()
    for number, face in enumerate(faces):
        (tmp_path / "folder" / f"{number}.png").write_bytes(face["bytes"])
    dataset = open_images(tmp_path / place, size=178, flip=False, split_fractions=(0, 0))
    assert_close(dataset[(1, 0)], torch.from_numpy(picture(1, 218, 178)[20:198]).permute(2, 0, 1) / 255)
    assert_close(dataset[(1, 0)], dataset[(1, 5)], rtol=0, atol=0)


def test_a_broken_cell_is_replaced(tmp_path: Path, picture) -> None:
    images = cells(picture, 4)
    images[1] = {"bytes": b"no image", "path": "1.png"}
    images[3] = {"bytes": None, "path": "3.png"}
    write(tmp_path / "x.parquet", {"image": images})
    dataset = open_images(tmp_path / "x.parquet", augment=False, split_fractions=(0, 0))
    with pytest.warns(UserWarning, match="cannot be read"):
        images = dataset.__getitems__([0, 1, 2, 3])
    assert_close(images[1], images[2], rtol=0, atol=0)
    assert_close(images[3], images[0], rtol=0, atol=0)
    assert [name for name, _ in dataset.skipped] == ["x.parquet[train]:1", "x.parquet[train]:3"]


def test_tables_that_hold_no_images(tmp_path: Path, picture) -> None:
    write(tmp_path / "x.parquet", {"foo": [1, 2, 3], "bar": [4, 5, 6]})
    with pytest.raises(ValueError, match=r"none of the columns 'image', 'img'.*it has: 'foo', 'bar'"):
        open_images(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column 'img'; it has: 'foo', 'bar'"):
        open_images(tmp_path / "x.parquet", column="img")
    with pytest.raises(ValueError, match=r"column 'foo' of .* holds int64; expected encoded images"):
        open_images(tmp_path / "x.parquet", column="foo")
    (tmp_path / "broken.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="as Parquet"):
        open_images(tmp_path / "broken.parquet")


def test_a_table_of_mere_paths_is_refused(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write(
        tmp_path / "x.parquet",
        {"image": pa.array([{"bytes": None, "path": f"{i}.png"} for i in range(3)], kind)},
    )
    with pytest.raises(
        ValueError, match="holds only the path of its image; write the table with embedded images"
    ):
        open_images(tmp_path / "x.parquet")


def test_hub_names(monkeypatch: pytest.MonkeyPatch, picture) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"img": cells(picture, 20), "label": [0, 1] * 10}
    table = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=table, test=table))
    train = open_images("hf:someone/something", augment=False)
    row = int(train.item_name(2).split(":")[-1])
    assert_close(train[2], torch.from_numpy(picture(row, 32, 32)).permute(2, 0, 1) / 255)
    assert train.label(2) == row % 2
    assert len(open_images("hf:someone/something", split="test")) == 20
    with pytest.raises(ValueError, match="no column 'x'; it has: 'img', 'label'"):
        open_images("hf:someone/something", column="x")


def test_a_failing_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")

    def fail(name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        ValueError, match="cannot load hf:a/b: ConnectionError: no route; check the name and the network"
    ):
        open_images("hf:a/b")


def test_rows_come_in_the_order_of_the_folders(tmp_path: Path, picture) -> None:
    for number, folder in enumerate(("part", "part-1", "part.2")):
        write(tmp_path / folder / "x.parquet", {"image": cells(picture, 1), "label": [number]})
    dataset = open_images(tmp_path, augment=False, split_fractions=(0, 0))
    assert [dataset.label(i) for i in range(3)] == [0, 1, 2]


def test_two_colons_in_a_path(tmp_path: Path, picture) -> None:
    """They name chains of file systems to the library that ``datasets`` opens files with."""
    write(tmp_path / "http::a.parquet", {"image": cells(picture, 9)})
    for path in (tmp_path, tmp_path / "http::a.parquet"):
        with pytest.raises(ValueError, match="has two colons in its path"):
            open_images(path)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("claim", ["Image", "Audio", "Video", "Pdf"])
@pytest.mark.parametrize("place", ["http://127.0.0.1:9/x.png", "fifo"])
def test_no_column_is_decoded_by_datasets(
    tmp_path: Path, picture, saved: bool, claim: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that a file calls an image is one by its bytes alone: no path and no address in it is opened."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    columns = {"image": cells(picture, 9), "label": [{"bytes": None, "path": place}] * 9}
    for column, kind in (("image", claim), ("label", claim)):
        told = {name: {"_type": "Image"} for name in columns} | {column: {"_type": kind}}
        table = pa.table(columns, metadata={"huggingface": json.dumps({"info": {"features": told}})})
        path = tmp_path / f"{column}.parquet"
        if saved:
            path = tmp_path / column
            path.mkdir()
            with (
                pa.OSFile(str(path / "a.arrow"), "wb") as file,
                pa.ipc.new_stream(file, table.schema) as writer,
            ):
                writer.write_table(table)
            (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
            (path / "dataset_info.json").write_text("{}")
        else:
            pq.write_table(table, path)
        dataset = open_images(path, size=32, augment=False, split_fractions=(0, 0))
        assert_close(dataset[3], torch.from_numpy(picture(3, 32, 32)).permute(2, 0, 1) / 255)
        assert dataset.label(3) in (None, -1)

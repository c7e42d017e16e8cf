"""WebDataset shards: what they hold, how they are divided, and what a stranger may put into one."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import png
from torch.testing import assert_close

from gmvq.data import ImageDataset, make_loader, open_images

pytest.importorskip("PIL.Image", reason="pillow is not installed")


def shard(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def samples(picture, numbers: Iterable[int]) -> list[tuple[str, bytes]]:
    """As a WebDataset writer puts them: the files of a sample one after the other."""
    parts = [
        [
            (f"{i:06}.cls", str(10 * i).encode()),
            (f"{i:06}.png", png(picture(i, 32, 32))),
            (f"{i:06}.txt", b"a caption"),
        ]
        for i in numbers
    ]
    return [one for sample in parts for one in sample]


def whole(path: Path, **options: Any) -> ImageDataset:
    return open_images(path, augment=False, split_fractions=(0, 0), **options)


def pixels(picture, number: int) -> torch.Tensor:
    return torch.from_numpy(picture(number, 32, 32)).permute(2, 0, 1) / 255


@pytest.fixture
def shards(tmp_path: Path, picture) -> Path:
    """30 samples in three shards of train, and 5 of test."""
    for part in range(3):
        shard(
            tmp_path / "set" / f"set-train-00000{part}.tar",
            samples(picture, range(10 * part, 10 * part + 10)),
        )
    shard(tmp_path / "set" / "set-test-000000.tar", samples(picture, range(50, 55)))
    return tmp_path / "set"


def test_pictures_classes_names_and_splits(shards: Path, picture) -> None:
    test = open_images(shards, split="test")
    assert [test.label(i) for i in range(5)] == [500, 510, 520, 530, 540]
    assert test.item_name(3) == "set-test-000000.tar:000053"
    assert_close(test[3], pixels(picture, 53))
    train, validation = open_images(shards, augment=False), open_images(shards, split="validation")
    assert "3 shards" in train.description
    found = [{part.label(i) for i in range(len(part))} for part in (train, validation)]
    assert found[0] | found[1] == {10 * i for i in range(30)}
    assert not found[0] & found[1]
    assert found[1]
    for i in (0, 11, len(train) - 1):
        assert_close(train[i], pixels(picture, int(train.label(i) or 0) // 10))
    assert_close(pickle.loads(pickle.dumps(train))[2], train[2], rtol=0, atol=0)


def test_the_split_of_a_sample_does_not_depend_on_its_shard(tmp_path: Path, picture) -> None:
    one = shard(tmp_path / "one.tar", samples(picture, reversed(range(30))))
    for part in range(5):
        shard(tmp_path / "five" / f"{part}.tar", samples(picture, range(part, 30, 5)))
    kept = [open_images(path, split="validation") for path in (one, tmp_path / "five")]
    names = [{part.item_name(i).split(":")[1] for i in range(len(part))} for part in kept]
    assert names[0] == names[1]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_formats_of_tar(tmp_path: Path, picture, format: int) -> None:
    """Long names lie in headers of their own but for ustar, which has a second field for folders."""
    folder = "/".join(["f" * 60, "g" * 60, "h" * 20])
    long = (f"./{folder}/a.png", png(picture(5, 32, 32)))
    path = shard(tmp_path / "x.tar", [long, *samples(picture, [3])], format)
    dataset = whole(path)
    assert [dataset.item_name(i) for i in range(2)] == [f"x.tar:{folder}/a", "x.tar:000003"]
    assert_close(dataset[0], pixels(picture, 5))
    assert_close(dataset[1], pixels(picture, 3))


def test_which_picture_of_a_sample(tmp_path: Path, picture) -> None:
    sides = [
        (f"{i}.{side}.png", png(picture(first + i, 32, 32)))
        for i in range(3)
        for first, side in ((0, "left"), (10, "right"))
    ]
    path = shard(tmp_path / "x.tar", sides)
    with pytest.raises(ValueError, match=r"no image in the shards.* among the suffixes left.png, right.png"):
        whole(path)
    assert_close(whole(path, column="right.png")[1], pixels(picture, 11))
    assert whole(path, column="right.png").label(0) is None


def test_what_cannot_be_used_is_named(tmp_path: Path, picture) -> None:
    members = samples(picture, range(4))
    members[1] = ("000000.png", b"no image")
    members[4] = ("000001.json", b"{}")
    path = shard(tmp_path / "x.tar", members)
    dataset = whole(path)
    assert dataset.skipped == [("x.tar:000001", "no image among the suffixes cls, json, txt")]
    assert [dataset.label(i) for i in range(len(dataset))] == [0, 20, 30]
    with pytest.warns(UserWarning, match="x.tar:000000 cannot be read"):
        assert_close(dataset[0], pixels(picture, 2))


def test_hidden_files_are_no_samples(tmp_path: Path, picture) -> None:
    path = shard(
        tmp_path / "x.tar", [("._000001.png", b"of a Mac"), (".png", b""), *samples(picture, [1, 2])]
    )
    assert (len(whole(path)), whole(path).skipped) == (2, [])


def test_a_folder_of_images_beside_a_shard_is_a_folder_of_images(tmp_path: Path, picture) -> None:
    shard(tmp_path / "x.tar", samples(picture, range(3)))
    (tmp_path / "one.png").write_bytes(png(picture(7, 32, 32)))
    assert whole(tmp_path).item_name(0) == "one.png"


def test_a_changed_shard_is_read_anew(tmp_path: Path, picture) -> None:
    path = shard(tmp_path / "x.tar", samples(picture, range(3)))
    before = whole(path)
    shard(path, samples(picture, range(1)))
    assert len(whole(path)) == 1
    path.write_bytes(b"")
    with pytest.warns(match="cannot be read"), pytest.raises(ValueError, match="has become shorter"):
        before[2]


def test_processes_and_workers_share_every_sample_once(shards: Path, picture) -> None:
    """And a run that goes on, on another number of processes, gets what is left, in the same order."""

    def loaders(world: int) -> list[Any]:
        data = open_images(shards, augment=False, split_fractions=(0, 0))
        options = {"batch_size": 6 // world, "shuffle": True, "num_workers": 2, "world_size": world}
        return [make_loader(data, rank=rank, **options) for rank in range(world)]

    def together(batches: Iterable[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
        return [torch.cat(batch) for batch in batches]

    (alone,) = loaders(1)
    epoch = list(alone)
    two = loaders(2)
    first = [iter(loader) for loader in two]
    begun = together((next(first[0]), next(first[1])) for _ in range(2))
    (resumed,) = loaders(1)
    resumed.load_state_dict(two[1].state_dict())
    rest = list(resumed)
    assert_close(begun + rest, epoch, rtol=0, atol=0)
    seen = {tuple(image.flatten()[:50].tolist()) for batch in epoch for image in batch}
    assert len(seen) == 30


# What a stranger may put into one


def head(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **more: Any) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.type = size, kind
    for key, value in more.items():
        setattr(header, key, value)
    return header.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)


def test_links_and_names_lead_nowhere(tmp_path: Path, picture) -> None:
    (tmp_path / "secret.png").write_bytes(png(picture(9, 32, 32)))
    links = [
        head("a.png", 0, tarfile.SYMTYPE, linkname=str(tmp_path / "secret.png")),
        head("b.png", 0, tarfile.LNKTYPE, linkname="../secret.png"),
        head("c.png", 0, tarfile.CHRTYPE),
        head("d.png", 0, tarfile.FIFOTYPE),
        head("e.png/", 0, tarfile.DIRTYPE),
    ]
    data = png(picture(1, 32, 32))
    names = ["/etc/passwd.png", "../../up.png", "x/../../y.png"]
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(links) + b"".join(head(name, len(data)) + padded(data) for name in names) + END)
    dataset = whole(path)
    assert [dataset.item_name(i) for i in range(len(dataset))] == [
        "x.tar:/etc/passwd", "x.tar:../../up", "x.tar:x/../../y",
    ]  # fmt: skip
    assert_close(dataset[1], pixels(picture, 1))
    assert sorted(child.name for child in tmp_path.iterdir()) == ["secret.png", "x.tar"]


PAX = b"30 path=longer.than.it.says\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (head("a.png", 10**12), "larger than the file"),
        (head("a.png", 8**11 - 1), "larger than the file"),
        (head("a.png", 2**80), "larger than the file"),
        (head("a.png", -512), "larger than the file"),
        (head("a", 1 << 17, tarfile.XHDTYPE) + bytes(1 << 17), "131,072 bytes, above 65,536"),
        (head("a", 1 << 17, tarfile.GNUTYPE_LONGNAME) + bytes(1 << 17), "131,072 bytes, above 65,536"),
        (head("a", len(PAX), tarfile.XHDTYPE) + padded(PAX), "a PAX header is damaged"),
        (head("a", 12, tarfile.XHDTYPE) + padded(b"12 size=1e9\n"), "its size is no number"),
        (head("a", 22, tarfile.XHDTYPE) + padded(b"22 GNU.sparse.major=1\n"), "sparse"),
        (head("a.png", 512, tarfile.GNUTYPE_SPARSE), "larger than the file|sparse"),
        (b"x" * 512, "byte 0 is no header of a tar archive"),
        (b"\x1f\x8b" + bytes(600), "compressed archive"),
        (b"", "byte 0 is the end of the file: it is cut short"),
    ],
)
def test_headers_that_announce_too_much(tmp_path: Path, picture, data: bytes, message: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data + (END if data else b""))
    with pytest.raises(ValueError, match=rf"no image in the shards of .*({message})"):
        whole(path)
    # Behind good samples it costs the last, which may go on, and what follows.
    good = samples(picture, range(3))
    path.write_bytes(b"".join(head(name, len(content)) + padded(content) for name, content in good) + data)
    dataset = whole(path)
    assert [dataset.label(i) for i in range(len(dataset))] == [0, 10]
    assert [name for name, _ in dataset.skipped] == ["x.tar"]


def test_a_shard_that_is_cut_short_keeps_what_is_there(tmp_path: Path, picture) -> None:
    good = shard(tmp_path / "x.tar", samples(picture, range(4))).read_bytes()
    for length in (len(good.rstrip(b"\0")) // 512 * 512 + 512, len(good) // 3):
        (tmp_path / "x.tar").write_bytes(good[:length])
        dataset = whole(tmp_path / "x.tar")
        (entry,) = dataset.skipped
        assert entry[0] == "x.tar"
        assert "cut short" in entry[1]
        assert_close(dataset[0], pixels(picture, 0))


def test_a_header_in_front_of_itself_ends(tmp_path: Path) -> None:
    """A megabyte of headers of nothing, of which each might be asked to stand for the next."""
    path = tmp_path / "x.tar"
    path.write_bytes(head("a", 0, tarfile.XHDTYPE) * 2000 + END)
    with pytest.raises(ValueError, match="no file at all"):
        whole(path)

"""Loaders, comparisons and compressed tokens start no more threads or processes than the machine has cores."""

from __future__ import annotations

import argparse
import contextlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.data import make_loader, open_images
from gmvq.environment import at_most_cores, cores
from gmvq.tokens import rows

pytest.importorskip("pyarrow")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8))
    return tmp_path / "images.npy"


def test_the_number_is_cut_with_a_warning() -> None:
    assert cores() >= 1
    with pytest.warns(
        UserWarning, match=rf"100,000 readers were asked for, and this machine has {cores()} cores"
    ):
        assert at_most_cores(100_000, "readers") == cores()
    assert at_most_cores(0, "readers") == 0


def test_loaders(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_images(images, size=8)
    with pytest.warns(UserWarning, match="processes that fetch data"):
        assert make_loader(dataset, batch_size=2, shuffle=True, num_workers=100_000).num_workers == cores()
    asked = list[int]()
    monkeypatch.setattr(rows, "DataLoader", lambda *_, num_workers, **__: asked.append(num_workers) or [])
    with pytest.warns(UserWarning, match="processes that decode images"):
        assert list(rows._read_batches(rows.open_rows(dataset), [range(2)], 100_000)) == []
    assert asked == [cores()]


def test_compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    compare = pytest.importorskip("gmvq_bench.cli.compare")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compare, "cores", lambda: 4)

    def devices(workers: int | None, threads: int) -> int:
        options = argparse.Namespace(devices=None, workers=workers, threads=threads)
        return len(compare._devices(options))

    assert [devices(None, 1), devices(None, 3), devices(2, 1), devices(2, 2)] == [4, 1, 2, 2]
    assert capsys.readouterr().err == ""
    assert [devices(9, 1), devices(2, 4)] == [4, 1]
    assert "--workers 2: there are cores for 1 at a time, of 4 threads each" in capsys.readouterr().err


def test_what_compressed_tokens_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of a few hundred bytes names threads, batches and images."""
    pytest.importorskip("transformers")
    pytest.importorskip("constriction")
    from gmvq.prior import TokenPrior, TokenSpec, coding

    prior = TokenPrior(TokenSpec((4,), 8), kind="causal", size="tiny").eval()
    indices = torch.arange(20).view(5, 4) % 8
    data = coding.compress(prior, indices)
    (length,) = struct.unpack("<I", data[8:12])

    def changed(**entries: Any) -> bytes:
        head = {**json.loads(data[12 : 12 + length]), **entries}
        text = json.dumps(head).encode()
        return data[:8] + struct.pack("<I", len(text)) + text + data[12 + length :]

    asked, real = list[int](), torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (asked.append(count), real(count)))
    with contextlib.suppress(ValueError):  # fewer threads may sum to other probabilities: said, not hidden
        coding.decompress(prior, changed(threads=100_000))
    assert asked
    assert max(asked) <= cores()
    with pytest.raises(ValueError, match=r"to 4,000,000,000 bytes or more.*decompression bombs"):
        coding.decompress(prior, changed(images=10**9))
    with pytest.raises(ValueError, match=r"<= 4096 - at .\$\.batch"):
        coding.decompress(prior, changed(batch=10**6))
    assert zlib.crc32(data[12 + length :]) == json.loads(data[12 : 12 + length])["crc32"]

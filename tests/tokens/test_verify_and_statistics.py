"""gmvq tokens verify finds every kind of damage; gmvq tokens stats agrees with counting by hand."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gmvq.tokens import (
    DataRecipe,
    TokenDataset,
    decode_tokens,
    encode_dataset,
    read_manifest,
    statistics,
    verify,
)
from gmvq.tokens.shard import read_columns, write_shard
from gmvq.tokens.statistics import usage_figure

SHARD = "train-00001-of-00003.parquet"


def test_sound_tokens(tokens: Path) -> None:
    found = verify(tokens)
    assert (found.problems, found.rows) == ([], 73)


def test_every_problem_is_reported(tokens: Path, tmp_path: Path) -> None:
    first, third = tokens / "train-00000-of-00003.parquet", tokens / "test-00000-of-00002.parquet"
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(bytes(data))
    (tokens / SHARD).unlink()
    third.write_bytes(third.read_bytes()[:-1])
    (tokens / "copy.parquet").touch()
    problems = "\n".join(verify(tokens).problems)
    for text in (
        "SHA-256 is not that",
        "is missing",
        "bytes in place of",
        "copy.parquet is not in the manifest",
    ):
        assert text in problems
    assert len(problems.splitlines()) == 4
    assert verify(tokens).rows == 13


def forge(tokens: Path, change: Callable[[Any], None]) -> None:
    """Replace a shard by a changed one, with digests that fit the file."""
    manifest = read_manifest(tokens)
    record = next(one for one in manifest.shards if one.file == SHARD)
    columns = read_columns((tokens / SHARD).read_bytes(), manifest.indices, "train", SHARD)
    columns.indices = columns.indices.copy()
    change(columns)
    data, forged = write_shard(record, columns, [], manifest.indices, manifest.fingerprint)
    (tokens / SHARD).write_bytes(data)
    file = tokens / "manifest.json"
    text = file.read_text().replace(record.sha256, forged.sha256)
    text = text.replace(f'"bytes": {record.bytes}', f'"bytes": {forged.bytes}')
    file.write_text(text)
    assert hashlib.sha256(data).hexdigest() == forged.sha256


def test_an_index_out_of_range(tokens: Path) -> None:
    def change(columns: Any) -> None:
        columns.indices[3, 1] = 16

    forge(tokens, change)
    problems = verify(tokens).problems
    assert len(problems) == 1
    assert "indices must lie in [0, 15]" in problems[0]


def test_an_id_twice_and_a_changed_token(tokens: Path) -> None:
    def change(columns: Any) -> None:
        columns.ids = columns.ids.copy()
        columns.ids[3] = 22
        columns.indices[0, 0] ^= 1

    forge(tokens, change)
    problems = verify(tokens).problems
    assert f"{SHARD}: ids: expected 23 in row 3, got 22" in problems
    assert f"{SHARD}: the SHA-256 of the columns is not that of the record" in problems


def test_a_link_out_of_the_folder(tokens: Path, tmp_path: Path, model: Any) -> None:
    outside = tmp_path / "outside.parquet"
    (tokens / SHARD).rename(outside)
    os.symlink(outside, tokens / SHARD)
    assert "leads out of" in verify(tokens).problems[0]
    with pytest.raises(ValueError, match="leads out of"):
        list(decode_tokens(tokens, model))
    with pytest.raises(ValueError, match="leads out of"):
        TokenDataset(tokens)


def test_statistics_by_hand(build: Callable[..., Any], recipe: DataRecipe, tmp_path: Path) -> None:
    encode_dataset(build(levels=2), recipe, tmp_path / "t", log_variance=True)
    found = statistics(tmp_path / "t", top=3)
    rows = TokenDataset(tmp_path / "t", log_variance=True)
    indices = torch.stack([row["indices"] for row in rows])  # pyright: ignore
    assert (found.rows, found.positions, len(found.levels)) == (73, 4, 2)
    bits = 0.0
    for number, level in enumerate(found.levels):
        counts = torch.bincount(indices[..., number].flatten(), minlength=16)
        p = counts.double() / counts.sum()
        entropy = float(-torch.xlogy(p, p).sum())
        assert torch.equal(level.histogram, counts)
        assert level.perplexity == pytest.approx(math.exp(entropy))
        assert level.codes_used == int((counts > 0).sum())
        assert level.top_codes[0][1] == pytest.approx(float(p.max()))
        bits += 4 * entropy / math.log(2)
    assert found.bits_per_image == pytest.approx(bits)
    assert found.bits_per_pixel == pytest.approx(bits / 64)
    assert found.fixed_bits_per_image == pytest.approx(4 * 2 * 4)
    mean = torch.stack([row["log_variance"] for row in rows]).mean()  # pyright: ignore
    assert found.mean_log_variance == pytest.approx(float(mean), rel=1e-5)
    assert statistics(tmp_path / "t", split="test").rows == 23
    json.dumps(found.summary())
    usage_figure(found, "t").savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_no_row_at_all(model: Any, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of tokens"):
        statistics(tmp_path / "nothing")
    for file in pictures.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(ValueError, match="none of the 12 images can be read"):
        encode_dataset(model, DataRecipe(str(pictures), size=8), tmp_path / "t")

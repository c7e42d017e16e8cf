"""Manifests and shards that were cut short, edited or made up end in a named error, never in one from deep inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmvq.cli.main import main
from gmvq.tokens import TokenDataset, read_manifest, statistics, verify
from gmvq.tokens.folder import read_shard, shard_path
from gmvq.tokens.reading import parse_manifest
from gmvq.tokens.shard import adopt, notes_of, read_columns

few = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../up.parquet", "/etc/passwd", "train-00000-of-00003.parquet", "\ud800"]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


def names(error: ValueError, file: str) -> None:
    assert file in str(error)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, inner in items for path in paths(inner, (*here, key)))]


@few
@given(data=st.data())
def test_a_manifest_with_one_entry_replaced(tokens: Path, data: st.DataObject) -> None:
    whole = json.loads((tokens / "manifest.json").read_text())
    path = data.draw(st.sampled_from(paths(whole)[1:]))
    place = whole
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()) and isinstance(place, dict):
        del place[path[-1]]
    else:
        place[path[-1]] = data.draw(JSON)
    try:
        manifest = parse_manifest(json.dumps(whole).encode(), "m.json")
    except ValueError as error:
        names(error, "m.json")
    else:
        assert all("/" not in shard.file for shard in manifest.shards)
        manifest.to_json()
        str(manifest.fingerprint)


@few
@given(JSON)
def test_a_manifest_of_anything(value: Any) -> None:
    with pytest.raises(ValueError, match=r"m\.json"):
        parse_manifest(json.dumps(value).encode(), "m.json")


@few
@given(data=st.data())
def test_a_manifest_of_changed_bytes(tokens: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "changed"
    folder.mkdir(exist_ok=True)
    whole = bytearray((tokens / "manifest.json").read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "manifest.json").write_bytes(bytes(whole))
    try:
        read_manifest(folder)
    except ValueError as error:
        names(error, "manifest.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "", "\x00", "[1]", '"a"'])
def test_manifests_that_parsers_choke_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../x.parquet",
        "/etc/passwd",
        "a/train-00000-of-00003.parquet",
        "train-00003-of-00003.parquet",
        "x",
        "",
    ],
)
def test_names_that_lead_elsewhere(tokens: Path, name: str) -> None:
    text = (tokens / "manifest.json").read_text().replace("train-00001-of-00003.parquet", name)
    (tokens / "manifest.json").write_text(text)
    for use in (verify, statistics, TokenDataset):
        with pytest.raises(ValueError, match="is no shard of this run"):
            use(tokens)
    with pytest.raises((ValueError, FileNotFoundError)):
        shard_path(tokens, name)


def test_newer_and_other_formats(tokens: Path) -> None:
    file = tokens / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match="update gmvq"):
        verify(tokens)
    file.write_text(text.replace("gmvq-tokens", "other"))
    with pytest.raises(ValueError, match="is no manifest of tokens"):
        verify(tokens)
    file.write_text(text.replace('"rows": 73', '"rows": 74'))
    with pytest.raises(ValueError, match="contradicts itself"):
        verify(tokens)


@few
@given(data=st.data())
def test_a_shard_of_changed_bytes(tokens: Path, data: st.DataObject) -> None:
    manifest = read_manifest(tokens)
    record = manifest.shards[0]
    file = tokens / record.file
    original = file.read_bytes()
    whole = bytearray(original)
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(whole)
    file.write_bytes(changed)
    try:
        if changed != original:
            with pytest.raises(ValueError, match="train-00000"):
                read_shard(tokens, record, manifest.indices)
            assert verify(tokens).rows == 53
    finally:
        file.write_bytes(original)
    try:  # without a digest to compare with, as a shard that the manifest has not heard of
        adopted = adopt(changed, record, manifest.indices, manifest.fingerprint, "x.parquet")
    except ValueError as error:
        names(error, "x.parquet")
    else:
        assert adopted.content_sha256 == record.content_sha256


@few
@given(st.binary(max_size=200))
def test_a_shard_of_any_bytes(tokens: Path, noise: bytes) -> None:
    spec = read_manifest(tokens).indices
    for data in (noise, b"PAR1" + noise + b"PAR1"):
        with pytest.raises(ValueError, match=r"x\.parquet"):
            read_columns(data, spec, "train", "x.parquet")
        with pytest.raises(ValueError, match=r"x\.parquet"):
            notes_of(data, "x.parquet")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["label"]),
        lambda table: table.set_column(0, "id", pa.array([None] * len(table), pa.int64())),
        lambda table: table.set_column(0, "id", pa.array(["a"] * len(table))),
        lambda table: table.set_column(2, "split", pa.array(["test"] * len(table))),
        lambda table: table.set_column(
            3, "indices", pa.array([[0] * 5] * len(table), pa.list_(pa.int16(), 5))
        ),
        lambda table: table.append_column("more", pa.array([0] * len(table))),
    ],
)
def test_other_columns(tokens: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    manifest = read_manifest(tokens)
    table = change(pq.read_table(tokens / manifest.shards[0].file))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(ValueError, match=r"x\.parquet"):
        read_columns(sink.getvalue().to_pybytes(), manifest.indices, "train", "x.parquet")


def test_links_in_a_circle(tokens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next(tokens.glob("train-*.parquet"))
    shard.unlink()
    shard.symlink_to(shard.name)
    assert "is missing" in verify(tokens).problems[0]
    with pytest.raises(FileNotFoundError, match="is missing"):
        statistics(tokens)
    (tokens / "loop").symlink_to("loop")
    assert main(["prior", "fit", str(tokens / "loop")]) == 2
    assert "is no folder of tokens" in capsys.readouterr().err

"""One shard as Parquet: rows to bytes, always the same for the same rows, and bytes to checked rows.

Columns: ``id`` int64, ``name`` and ``split`` string, ``indices`` fixed-size list of int16 or int32 (row-major over
the index shape), with log-variances ``log_variance`` fixed-size list of float32, ``label`` int64 or null.

Where blocks of positions share codes, ``indices`` is a list of the codes of the leaves, of any length, and a fixed-size
list of booleans, ``divided``, says which blocks are divided (``gmvq.quantizers.leaves``). ``Columns`` hold the grids.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.limits import check_parquet
from ..errors import as_value_error, require
from ..quantizers.leaves import block_numbers, from_leaves, to_leaves
from ..reading import check_unpacked
from .manifest import Count, Digest, IndexSpec, ShardPlan, ShardRecord, Size, Skipped

_METADATA = b"gmvq"
_ROW_GROUP = 8192
#: Rows whose trees are unfolded together: their numbers of positions are int64.
_AT_ONCE = 1024


class Notes(msgspec.Struct, frozen=True):
    """What a shard says of itself in the metadata of its file; ``run`` is the fingerprint of the run."""

    run: str
    file: str
    first_id: Count
    images: Size
    rows: Count
    index_shape: tuple[int, ...]
    codebook_size: Size
    content_sha256: Digest
    skipped: tuple[Skipped, ...]


@dataclass
class Columns:
    """The rows of a shard: ids (n,), indices (n, length), log-variances (n, length) or None, labels (n,) or null."""

    ids: NDArray[np.int64]
    names: list[str]
    labels: list[int | None]
    indices: NDArray[np.integer[Any]]
    log_variance: NDArray[np.float32] | None

    def digest(self, split: str) -> str:
        """SHA-256 over the values, whatever file format they are kept in."""
        sha = hashlib.sha256(json.dumps([split, self.names, self.labels]).encode())
        for array in (self.ids, self.indices, self.log_variance):
            if array is not None:
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                sha.update(np.ascontiguousarray(little).tobytes())
        return sha.hexdigest()


def schema_of(spec: IndexSpec) -> Any:
    """The Arrow schema of the columns."""
    arrow = require("pyarrow", "data")
    ragged = spec.scales > 1
    kinds = {"id": arrow.int64(), "name": arrow.string(), "split": arrow.string()}
    kinds["indices"] = arrow.list_(arrow.from_numpy_dtype(spec.dtype), -1 if ragged else spec.length)
    if ragged:
        kinds["divided"] = arrow.list_(arrow.bool_(), sum(block_numbers(spec.shape, spec.scales)))
    if spec.log_variance:
        kinds["log_variance"] = arrow.list_(arrow.float32(), spec.length)
    fields = [arrow.field(name, kind, nullable=False) for name, kind in kinds.items()]
    return arrow.schema([*fields, arrow.field("label", arrow.int64())])


def write_shard(
    plan: ShardPlan, columns: Columns, skipped: list[Skipped], spec: IndexSpec, run: str
) -> tuple[bytes, ShardRecord]:
    """Make the file of a shard in memory: its bytes, and the record for the manifest."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    content, count, left_out = columns.digest(plan.split), len(columns.ids), tuple(skipped)
    notes = Notes(
        run, plan.file, plan.first_id, plan.images, count, spec.shape, spec.codebook_size, content, left_out
    )
    schema = schema_of(spec).with_metadata({_METADATA: json.dumps(msgspec.to_builtins(notes))})
    arrays = _tokens(columns, spec) | {
        "id": arrow.array(columns.ids),
        "name": arrow.array(columns.names, arrow.string()),
        "split": arrow.array([plan.split] * count, arrow.string()),
        "label": arrow.array(columns.labels, arrow.int64()),
    }
    table = arrow.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, row_group_size=_ROW_GROUP, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    return data, _record(plan, data, content, left_out)


def _record(plan: ShardPlan, data: bytes, content: str, skipped: tuple[Skipped, ...]) -> ShardRecord:
    return ShardRecord(
        *(plan.file, plan.split, plan.first_id, plan.images),
        rows=plan.images - len(skipped),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content_sha256=content,
        skipped=skipped,
    )


def read_columns(data: bytes, spec: IndexSpec, split: str, where: str) -> Columns:
    """Read the rows of a shard and check schema, split and the range of the indices."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    check_parquet(io.BytesIO(data), where)
    expected = schema_of(spec)
    kinds = (arrow.ArrowException, ValueError, TypeError, OSError, MemoryError)
    with as_value_error(f"{where} is damaged", *kinds):
        source = arrow.BufferReader(data)
        table = parquet.read_table(source, use_threads=False, page_checksum_verification=True)
        if not table.schema.equals(expected):
            got, wanted = (
                ", ".join(f"{one.name}: {one.type}" for one in s) for s in (table.schema, expected)
            )
            raise ValueError(f"expected the columns {wanted}; got {got}")
        table.validate(full=True)
        nulls = [name for name in expected.names if name != "label" and table.column(name).null_count]
        if nulls:
            raise ValueError(f"the columns {', '.join(nulls)} hold nulls")
        if set(table.column("split").unique().to_pylist()) - {split}:
            raise ValueError(f"expected rows of the split {split!r} only")
        columns = Columns(
            ids=table.column("id").to_numpy(),
            names=table.column("name").to_pylist(),
            labels=table.column("label").to_pylist(),
            indices=_grids(table, spec, len(data)) if spec.scales > 1 else _matrix(table, "indices", spec),
            log_variance=_matrix(table, "log_variance", spec) if spec.log_variance else None,
        )
    check_range(columns.indices, spec, where)
    return columns


def check_range(indices: NDArray[Any], spec: IndexSpec, where: str) -> None:
    """Raise ValueError unless indices (n, length) are those of codes of their levels."""
    if not indices.size:
        return
    values = indices.reshape(-1, spec.levels)
    for size, low, high in zip(spec.sizes, values.min(0).tolist(), values.max(0).tolist(), strict=True):
        if low < spec.lowest or high >= size:
            raise ValueError(
                f"{where}: indices must lie in [{spec.lowest}, {size - 1}], got values from {low} to {high}"
            )


def adopt(data: bytes, plan: ShardPlan, spec: IndexSpec, run: str, where: str) -> ShardRecord:
    """Make the record of a shard that lies in the folder but not in the manifest, if it is whole and of this run."""
    notes = notes_of(data, where)
    if notes.run != run:
        raise ValueError(f"{where} belongs to another run")
    record = _record(plan, data, notes.content_sha256, notes.skipped)
    problems = problems_of(read_columns(data, spec, plan.split, where), record)
    if problems:
        raise ValueError(f"{where}: {problems[0]}")
    return record


def problems_of(columns: Columns, record: ShardRecord) -> list[str]:
    """Say in one line each how the rows of a shard differ from its record."""
    left_out = {one.id for one in record.skipped}
    ids = range(record.first_id, record.first_id + record.images)
    expected = np.fromiter((i for i in ids if i not in left_out), dtype=np.int64)
    problems: list[str] = []
    if len(columns.ids) != len(expected):
        problems.append(f"expected {len(expected)} rows, got {len(columns.ids)}")
    elif not np.array_equal(columns.ids, expected):
        wrong = int(np.flatnonzero(columns.ids != expected)[0])
        problems.append(f"ids: expected {expected[wrong]} in row {wrong}, got {columns.ids[wrong]}")
    if columns.digest(record.split) != record.content_sha256:
        problems.append("the SHA-256 of the columns is not that of the record")
    return problems


def _tokens(columns: Columns, spec: IndexSpec) -> dict[str, Any]:
    """Indices and, where stored, divided and log_variance as Arrow arrays by name."""
    arrow, found = require("pyarrow", "data"), dict[str, Any]()
    if columns.log_variance is not None:
        found["log_variance"] = _lists(columns.log_variance)
    if spec.scales == 1:
        return found | {"indices": _lists(columns.indices)}
    grids = torch.from_numpy(np.ascontiguousarray(columns.indices)).view(-1, *spec.shape)
    codes, counts, divided = (part.numpy() for part in to_leaves(grids, spec.scales))
    ends = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
    ragged = arrow.ListArray.from_arrays(ends, arrow.array(codes.astype(spec.dtype)))
    return found | {"indices": ragged, "divided": _lists(divided)}


def _lists(values: NDArray[Any]) -> Any:
    """Rows (n, length) as an Arrow array of fixed-size lists."""
    arrow = require("pyarrow", "data")
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
    return arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _grids(table: Any, spec: IndexSpec, size: int) -> NDArray[Any]:
    """The grids (n, length) of the leaves of a table from a file of ``size`` bytes."""
    check_unpacked("the grid of codes", table.num_rows * spec.length * np.dtype(spec.dtype).itemsize, size)
    parts: list[Tensor] = []
    for batch in table.to_batches(max_chunksize=_AT_ONCE):
        lists, divided = batch.column("indices"), batch.column("divided").flatten()
        codes = lists.flatten()
        if codes.null_count or divided.null_count:
            raise ValueError("a list holds nulls")
        trees = torch.from_numpy(divided.to_numpy(zero_copy_only=False).reshape(len(lists), -1))
        counts = torch.from_numpy(lists.value_lengths().to_numpy().astype(np.int64))
        leaves = torch.from_numpy(codes.to_numpy().copy())
        parts.append(from_leaves(leaves, counts, trees, spec.shape, spec.scales).flatten(1))
    return torch.cat(parts).numpy() if parts else np.empty((0, spec.length), spec.dtype)


def _matrix(table: Any, name: str, spec: IndexSpec) -> NDArray[Any]:
    """A column of fixed-size lists as (n, length)."""
    flat = table.column(name).combine_chunks().flatten()
    if flat.null_count:
        raise ValueError("a list holds nulls")
    return flat.to_numpy().reshape(-1, spec.length)


def notes_of(data: bytes, where: str) -> Notes:
    """What a shard says of itself."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    wrong = (msgspec.MsgspecError, KeyError, ValueError, TypeError, OSError, MemoryError, RecursionError)
    with as_value_error(f"{where} is no shard of tokens", arrow.ArrowException, *wrong):
        metadata = parquet.read_schema(arrow.BufferReader(data)).metadata or {}
        return msgspec.json.decode(metadata[_METADATA], type=Notes)

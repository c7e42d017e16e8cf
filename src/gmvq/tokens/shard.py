"""One shard as Parquet: rows to bytes, always the same for the same rows, and bytes to checked rows.

Columns: ``id`` int64, ``name`` and ``split`` string, ``indices`` fixed-size list of int16 or int32 (row-major over
the index shape), with log-variances ``log_variance`` fixed-size list of float32, ``label`` int64 or null.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .fields import Fields
from .manifest import IndexSpec, ShardRecord, Skipped
from .plan import ShardPlan

_METADATA = b"gmvq"
_ROW_GROUP = 8192


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
                sha.update(
                    np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
                )
        return sha.hexdigest()


def schema_of(spec: IndexSpec) -> Any:
    """The Arrow schema of the columns."""
    arrow = require("pyarrow", "data")
    value = {"int16": arrow.int16(), "int32": arrow.int32()}[spec.dtype]
    fields = [
        arrow.field("id", arrow.int64(), nullable=False),
        arrow.field("name", arrow.string(), nullable=False),
        arrow.field("split", arrow.string(), nullable=False),
        arrow.field("indices", arrow.list_(value, spec.length), nullable=False),
    ]
    if spec.log_variance:
        fields.append(arrow.field("log_variance", arrow.list_(arrow.float32(), spec.length), nullable=False))
    return arrow.schema([*fields, arrow.field("label", arrow.int64())])


def write_shard(
    plan: ShardPlan, columns: Columns, skipped: list[Skipped], spec: IndexSpec, run: str
) -> tuple[bytes, ShardRecord]:
    """Make the file of a shard in memory.

    Args:
        plan: which shard it is.
        columns: its rows.
        skipped: its images that could not be decoded.
        spec: what the indices are.
        run: fingerprint of the run, kept in the file.

    Returns:
        The bytes, and the record for the manifest.
    """
    arrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    content = columns.digest(plan.split)
    notes = {
        "run": run,
        "file": plan.file,
        "first_id": plan.first_id,
        "images": plan.images,
        "rows": len(columns.ids),
        "index_shape": list(spec.shape),
        "codebook_size": spec.codebook_size,
        "content_sha256": content,
        "skipped": [{"id": one.id, "name": one.name, "reason": one.reason} for one in skipped],
    }
    schema = schema_of(spec).with_metadata({_METADATA: json.dumps(notes)})
    values: dict[str, Any] = {
        "id": arrow.array(columns.ids),
        "name": arrow.array(columns.names, arrow.string()),
        "split": arrow.array([plan.split] * len(columns.ids), arrow.string()),
        "indices": lists(columns.indices, schema.field("indices").type),
        "label": arrow.array(columns.labels, arrow.int64()),
    }
    if columns.log_variance is not None:
        values["log_variance"] = lists(columns.log_variance, schema.field("log_variance").type)
    table = arrow.Table.from_arrays([values[name] for name in schema.names], schema=schema)
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, row_group_size=_ROW_GROUP, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    record = ShardRecord(
        **vars(plan),
        rows=len(columns.ids),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content_sha256=content,
        skipped=tuple(skipped),
    )
    return data, record


def read_columns(data: bytes, spec: IndexSpec, split: str, where: str) -> Columns:
    """Read the rows of a shard and check schema, split and the range of the indices.

    Raises:
        ValueError: not Parquet, damaged, other columns or types, nulls, or an index outside [0, K).
    """
    arrow = require("pyarrow", "data")
    table = _table(data, where)
    expected = schema_of(spec)
    if not table.schema.equals(expected):
        got = ", ".join(f"{one.name}: {one.type}" for one in table.schema)
        wanted = ", ".join(f"{one.name}: {one.type}" for one in expected)
        raise ValueError(f"{where}: expected the columns {wanted}; got {got}"[:2000])
    try:
        table.validate(full=True)
        table = table.combine_chunks()
        nulls = [name for name in expected.names if name != "label" and table.column(name).null_count]
        if nulls:
            raise ValueError(f"the columns {', '.join(nulls)} hold nulls")
        if set(table.column("split").unique().to_pylist()) - {split}:
            raise ValueError(f"expected rows of the split {split!r} only")
        columns = Columns(
            ids=table.column("id").to_numpy(),
            names=table.column("name").to_pylist(),
            labels=table.column("label").to_pylist(),
            indices=_matrix(table.column("indices"), spec.length),
            log_variance=_matrix(table.column("log_variance"), spec.length) if spec.log_variance else None,
        )
    except (arrow.ArrowException, ValueError, OSError, MemoryError) as error:
        raise ValueError(f"{where} is damaged: {_line(error)}") from error
    if columns.indices.size:
        low, high = int(columns.indices.min()), int(columns.indices.max())
        if low < 0 or high >= spec.codebook_size:
            raise ValueError(
                f"{where}: indices must lie in [0, {spec.codebook_size - 1}], got values from {low} to {high}"
            )
    return columns


def adopt(data: bytes, plan: ShardPlan, spec: IndexSpec, run: str, where: str) -> ShardRecord:
    """Make the record of a shard that lies in the folder but not in the manifest, if it is whole and of this run.

    Raises:
        ValueError: it is damaged, of another run, or its rows are not those of its plan.
    """
    notes = _notes(data, where)
    if notes.text("run") != run:
        raise ValueError(f"{where} belongs to another run")
    skipped = tuple(
        Skipped(one.number("id"), one.text("name"), one.text("reason")) for one in notes.tables("skipped")
    )
    record = ShardRecord(
        **vars(plan),
        rows=plan.images - len(skipped),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content_sha256=notes.digest("content_sha256"),
        skipped=skipped,
    )
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


def run_of(data: bytes, where: str) -> str:
    """The fingerprint of the run that a shard belongs to.

    Raises:
        ValueError: it is no shard of tokens.
    """
    return _notes(data, where).text("run")


def lists(values: NDArray[Any], kind: Any) -> Any:
    """Rows (n, length) as an Arrow array of fixed-size lists of this type."""
    arrow = require("pyarrow", "data")
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return arrow.FixedSizeListArray.from_arrays(flat, type=kind)


def _matrix(column: Any, length: int) -> NDArray[Any]:
    """A fixed-size list column as (n, length)."""
    flat = [chunk.flatten() for chunk in column.chunks]
    if any(part.null_count for part in flat):
        raise ValueError("a list holds nulls")
    parts = [part.to_numpy(zero_copy_only=True).reshape(-1, length) for part in flat]
    if not parts:
        return np.empty((0, length), dtype=column.type.value_type.to_pandas_dtype())
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _table(data: bytes, where: str) -> Any:
    arrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    try:
        return parquet.read_table(
            arrow.BufferReader(data), use_threads=False, page_checksum_verification=True
        )
    except (arrow.ArrowException, ValueError, TypeError, OSError, MemoryError) as error:
        raise ValueError(f"{where} is not a whole Parquet file: {_line(error)}") from error


def _notes(data: bytes, where: str) -> Fields:
    arrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    try:
        metadata = parquet.read_schema(arrow.BufferReader(data)).metadata or {}
        return Fields(json.loads(metadata[_METADATA].decode("utf-8")), where)
    except (
        arrow.ArrowException,
        KeyError,
        ValueError,
        TypeError,
        OSError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ValueError(f"{where} is no shard of tokens: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]

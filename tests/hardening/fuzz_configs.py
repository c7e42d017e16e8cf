"""Config files of ``gmvq fit``: odd values, damaged YAML, YAML made to run code or never to end; notes; suites."""

from __future__ import annotations

import contextlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_damage import BYTES, ODD_VALUES, PLACES, entries, replace, written
from hypothesis import strategies as st


@cache
def _parser() -> Any:
    from gmvq.cli.options import build_parser

    return build_parser()


def run_config(text: bytes, folder: Path) -> None:
    """Parse a YAML file as ``gmvq fit`` does."""
    from gmvq.cli.options import parse_options

    file = folder / "config.yaml"
    file.write_bytes(text)
    with contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
        parse_options(_parser(), ["--config", str(file)])


def _yaml(changes: dict[str, Any]) -> bytes:
    """Nested options as YAML; JSON is YAML."""
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        inner = nested
        *groups, leaf = name.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return json.dumps(nested).encode()


_OPTIONS = (
    *(
        "seed",
        "name",
        "out",
        "logger",
        "save_every",
        "keep_best",
        "model.dim",
        "model.codebook_size",
        "model.name",
    ),
    *(
        "model.warmup_steps",
        "model.beta",
        "model.temperature",
        "model.learning_rate",
        "model.estimator",
        "data.path",
    ),
    *(
        "data.size",
        "data.batch_size",
        "data.num_workers",
        "data.flip",
        "data.colum",
        "trainer.max_steps",
        "trainer",
    ),
    *("trainer.accelerator", "trainer.callbacks", "trainer.devices", "model", "data", "x", "model.x.y"),
)
_OPTION_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["Cosine(1, 0)", "Cosine(", "1e3", "__import__('os').system('true')", "GumbelSoftmax()"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
_LAUGHS = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (c, c, c - 1, c - 1, c - 1, c - 1) for c in range(98, 113)
)
CONFIGS = st.one_of(
    st.dictionaries(st.sampled_from(_OPTIONS), _OPTION_VALUES, min_size=1, max_size=4)
    .filter(lambda d: not any(a != b and b.startswith(f"{a}.") for a in d for b in d))
    .map(_yaml),
    st.builds(
        lambda damage: damage(b"model:\n  dim: 8\n  codebook_size: 64\ndata:\n  size: 32\nseed: 3\n"), BYTES
    ),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [
            b"model: !!python/object/apply:os.system ['true']",
            b"seed: !!python/name:os.system",
            b"model: &m\n  x: *m\n",
            b"[" * 20000,
            b"{" * 200,
            b"- " * 5000 + b"x",
            _LAUGHS,
            b"model: " + _LAUGHS.replace(b"\n", b"\n  "),
            b"--- \n...\n--- \n",
            b"\xff\xfe\x00",
            b"seed: " + b"9" * 6000,
            b"<<: *x",
            b"? [a]\n: b",
        ]
    ),
)

# What a run keeps beside its model

_RUN = {
    "config.yaml": b"seed: 3\nmodel:\n  dim: 8\ndata:\n  size: 8\n",
    "run.json": json.dumps([{"command": "gmvq fit", "from_step": 0, "data_wait": 0.1}]).encode(),
    "history.jsonl": b'{"step": 2, "loss": 1.5}\n{"step": 4, "loss": 1.0, "validation/mse": 0.25}\n',
    "metrics.json": json.dumps({"mse": 0.25, "codebook_size": 8}).encode(),
    "skipped.jsonl": b'["a.png", "cannot be read"]\n',
}


def run_notes(case: tuple[str, Any], folder: Path) -> None:
    """List a run of which a file is damaged, read its curves, and go on with them; other runs are listed as ever."""
    from gmvq.cli import runs
    from gmvq.data.skipping import read_noted
    from gmvq.evaluation.history import read_history
    from gmvq.evaluation.report import _data_wait, _read_metrics
    from gmvq.training.loggers import HistoryWriter

    name, damage = case
    run = written(folder, _RUN)
    for file, data in _RUN.items():
        (folder / "whole").mkdir(exist_ok=True)
        (folder / "whole" / file).write_bytes(data)
    if isinstance(damage, str):
        replace(run / name, damage)
    else:
        (run / name).write_bytes(damage(_RUN[name]))
    listed = io.StringIO()
    with contextlib.redirect_stderr(None), contextlib.redirect_stdout(listed):
        runs.run([str(folder), "--json"])
        runs.run([str(folder)])
    assert '"run": "whole"' in listed.getvalue()
    _data_wait(run / "run.json")
    _read_metrics(run / "metrics.json")
    read_noted(run / "skipped.jsonl")
    read_history(run / "history.jsonl")
    HistoryWriter(run / "history.jsonl").keep_until(3)
    kept = read_history(run / "history.jsonl")
    assert (kept.last_step or 0) <= 3, kept
    assert not kept.broken_lines


def _line(value: Any) -> Any:
    return lambda _: (json.dumps(value) + "\n").encode()


NOTES = st.tuples(
    st.sampled_from(sorted(_RUN)),
    st.one_of(
        BYTES,
        BYTES,
        PLACES,
        ODD_VALUES.map(_line),
        ODD_VALUES.map(lambda value: _line([value])),
        st.dictionaries(
            st.sampled_from(["step", "loss", "mse", "validation/mse", "model", "data"]), ODD_VALUES
        ).map(_line),
        st.just(lambda _: b"[" * 20000),
        st.just(lambda _: b'{"step": 1e999, "loss": ' + b"9" * 400 + b"}\n"),
    ),
)


# Suites, and the notes of exports


@cache
def _suite() -> dict[str, Any]:
    import yaml

    from gmvq_bench.comparison import suite

    return yaml.safe_load((Path(suite.__file__).parent / "suites" / "quick.yaml").read_text())


def run_suite(damage: Any, folder: Path) -> None:
    """Read a suite of comparisons, and list its runs."""
    from gmvq_bench.comparison.suite import load_suite

    data = (
        damage(json.dumps(_suite()).encode())
        if hasattr(damage, "place")
        else json.dumps(damage(_suite())).encode()
    )
    (folder / "suite.yaml").write_bytes(data)
    suite = load_suite(str(folder / "suite.yaml"))
    for setting, method in suite.pairs()[:3]:
        suite.grid_of(setting, method)


SUITES = st.one_of(BYTES, st.deferred(lambda: entries(_suite())))

_SIDECAR = {
    "format_version": 1,
    "format": "onnx",
    "signature": {
        "channels": 1,
        "downsample": 4,
        "spatial_dims": 2,
        "codebook_size": 8,
        "dim": 3,
        "index_shape": [1],
    },
    "digests": {"encoder.onnx": "sha256:0", "decoder.onnx": "sha256:0"},
}


def run_sidecar(damage: Any, folder: Path) -> None:
    """Read the notes of an export, whose files have another digest: it is never opened."""
    from gmvq.export.files import load_exported

    text = json.dumps(_SIDECAR).encode()
    (folder / "export.json").write_bytes(
        damage(text) if hasattr(damage, "place") else json.dumps(damage(_SIDECAR)).encode()
    )
    for name in ("encoder.onnx", "decoder.onnx"):
        (folder / name).write_bytes(b"x")
    load_exported(folder)
    raise AssertionError("an export was accepted whose files are not those that it names")


SIDECARS = st.one_of(BYTES, st.deferred(lambda: entries(_SIDECAR)))

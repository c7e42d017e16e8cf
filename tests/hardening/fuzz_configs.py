"""Config files of ``gmvq fit``: odd values at its options, damaged YAML, and YAML made to run code or never to end."""

from __future__ import annotations

import contextlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_damage import BYTES
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

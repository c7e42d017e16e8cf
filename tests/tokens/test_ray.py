"""The Ray engine writes the same bytes as the local one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmvq.tokens import DataRecipe, encode_dataset

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.xdist_group("ray"),
    # On a busy machine the imports of Ray's workers take minutes; a try that takes too long is begun anew, for ever.
    pytest.mark.timeout(900),
]


def test_two_workers_write_the_same_bytes(
    model: Any,
    recipe: DataRecipe,
    tokens: Path,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    seen: list[tuple[int, int]] = []
    out = tmp_path / "ray"
    out.mkdir()
    for name in ("train-00001-of-00003.parquet",):  # a killed run left this: the others are to be made
        (out / name).write_bytes((tokens / name).read_bytes())
    result = encode_dataset(
        model,
        recipe,
        out,
        engine="ray",
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
        **options,
    )
    assert result.encoded == 53
    assert contents(out) == contents(tokens)
    assert seen[0] == (20, 73)
    assert seen[-1] == (73, 73)
    import ray

    assert not ray.is_initialized()
    with pytest.raises(ValueError, match="What differs: --batch_size"):
        encode_dataset(model, recipe, out, engine="ray", **{**options, "batch_size": 3})

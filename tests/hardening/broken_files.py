"""Whether files are whole, by reading them, and the contents of a folder without what may differ between two runs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

#: Of a run: when, where, how long.
_NEVER_COMPARED = ("run.json", "report.html", "config.yaml", ".ckpt")
_TIMES = ("created", "seconds", "training_seconds", "started", "date", "command", "environment")


def problems(folder: Path) -> list[str]:
    """Each file of a folder that cannot be read, with the reason; files under a temporary name are none yet."""
    found: list[str] = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and not _is_temporary(path, folder):
            try:
                _read(path)
            except Exception as error:
                found.append(f"{path.relative_to(folder)} is not whole: {type(error).__name__}: {error}")
    return found


def leftovers(folder: Path) -> list[str]:
    """Files and folders under temporary names, and notes of a command that has not ended."""
    paths = [*folder.rglob("*"), *folder.parent.glob(f".{folder.name}*.tmp")]
    return sorted(
        str(path.relative_to(folder.parent))
        for path in paths
        if _is_temporary(path, folder.parent) or path.name.startswith((".unfinished", ".skipped"))
    )


def contents(folder: Path, case: Any) -> dict[str, str]:
    """SHA-256 of every file that a command wrote, of JSON without times and places."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            not path.is_file()
            or name.endswith(_NEVER_COMPARED)
            or (case.varies and re.search(case.varies, name))
        ):
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in _TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _is_temporary(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    return any(re.fullmatch(r"\..+\.tmp|\.export-.*", part) for part in parts)


def _read(path: Path) -> None:
    """Read a file as what its name says it is."""
    match path.suffix:
        case ".json":
            json.loads(path.read_text(encoding="utf-8"))
        case ".jsonl":
            # The last line is written while others read; the readers leave out half a line.
            for line in path.read_text(encoding="utf-8").splitlines()[:-1]:
                json.loads(line)
        case ".safetensors":
            from gmvq.models.weights import read_weights

            read_weights(path)
        case ".ckpt":
            from gmvq.training.checkpoint import read_checkpoint

            read_checkpoint(path)
        case ".png":
            from PIL import Image

            with Image.open(path) as image:
                image.load()
        case ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.read_table(path)
        case ".npy":
            import numpy as np

            np.load(path, allow_pickle=False)
        case ".onnx":
            import onnx

            onnx.load(path)
        case ".pt2":
            import zipfile

            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
        case ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        case ".yaml":
            import yaml

            assert yaml.safe_load(path.read_text(encoding="utf-8"))
        case _:
            assert path.name == ".lock" or path.suffix == ".md", "a kind of file nobody checks"

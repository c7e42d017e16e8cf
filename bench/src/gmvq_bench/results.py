"""The results file: one JSON object with device, versions and command, kept whole after every case, and resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import gmvq
from gmvq.cli.doctor import processor
from gmvq.environment import versions
from gmvq.files import write_json
from gmvq.reading import read_bytes, read_json

_PACKAGES = ("vector-quantize-pytorch", "faiss-cpu", "triton", "numpy")
#: What has to be the same for a file to be resumed.
_SAME = ("device", "threads", "clock", "python", "torch", "gmvq", "source", *_PACKAGES)


class Results:
    """Cases of one run in one file. ``data`` is what the file holds."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Open ``path``, going on with the cases it holds."""
        self.path = path
        if not path.exists():
            self.data: dict[str, Any] = {**head, "cases": []}
            return
        self.data = read(path, head["kind"])
        old, new = self.data["environment"], head["environment"]
        changed = [key for key in _SAME if old.get(key) != new.get(key)]
        if changed:
            what = ", ".join(f"{key} ({old.get(key)} there, {new.get(key)} here)" for key in changed)
            raise ValueError(
                f"{path} holds cases measured with another {what}; give another --json, or delete the file"
            )
        self.data |= {key: value for key, value in head.items() if key != "environment"}

    def has(self, name: str, contestants: Iterable[str]) -> bool:
        """Whether a case is there with all these contestants, measured or skipped."""
        wanted = set(contestants)
        return any(
            case["name"] == name and wanted <= case["contestants"].keys() for case in self.data["cases"]
        )

    def add(self, case: dict[str, Any]) -> None:
        """Keep a case, replacing one of its name, and write the file."""
        self.data["cases"] = [c for c in self.data["cases"] if c["name"] != case["name"]] + [case]
        write_json(self.path, self.data)


def read(path: Path, *kinds: str) -> dict[str, Any]:
    """Read a results file of one of these kinds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not JSON, or of another kind.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = data.get("kind") if isinstance(data, dict) else None
    if found not in kinds:
        raise ValueError(f"{path} is not a results file of '{kinds[0]}' (its kind: {found!r})")
    return data


def environment(device: torch.device) -> dict[str, Any]:
    """Device, threads, versions, and a digest of the package's source: what a figure depends on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{processor()}, {os.cpu_count()} cores",
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "source": _source_digest(),
        **versions("python", "gmvq", *_PACKAGES),
    }


def _source_digest() -> str:
    """Of what is measured and what measures, not of what shows the figures."""
    ours = Path(gmvq.__file__).parent
    digest = hashlib.sha256()
    for part in (ours / "functional", ours / "quantizers", Path(__file__).parent / "speed"):
        for file in sorted(part.rglob("*.py")):
            if file.name not in ("table.py", "plots.py"):
                digest.update(read_bytes(file))
    return digest.hexdigest()[:12]


def rounded(value: Any) -> Any:
    """Plain data with every float rounded to five digits."""
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.5g}"))


def failure(error: BaseException) -> str:
    """An error as results files have it: its class and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

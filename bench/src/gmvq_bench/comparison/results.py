"""The results file of a suite: the suite as it was run, its records, the command and the machines."""

from __future__ import annotations

from typing import Any

import torch

from gmvq.environment import versions

from ..results import rounded
from .suite import Suite

KIND = "gmvq compare"
#: Fields of a record that its file keeps and the results file, which holds hundreds, says once or leaves out.
_PER_RUN = ("protocol", "where")


def assemble(
    suite: Suite,
    records: list[dict[str, Any]],
    *,
    command: str,
    date: str,
) -> dict[str, Any]:
    """The content of a results file; curves are rounded to five digits."""
    return {
        "kind": KIND,
        "suite": suite.to_dict(),
        "command": command,
        "date": date,
        "environment": environment_of(records),
        "runs": [{k: rounded(v) for k, v in r.items() if k not in _PER_RUN} for r in records],
    }


def environment_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Devices, threads and versions of the runs."""
    devices = sorted({r["environment"]["device"] for r in records})
    return {
        "device": ", ".join(devices),
        "threads": ", ".join(sorted({str(r["environment"]["threads"]) for r in records})),
        "torch": torch.__version__,
        **versions("python", "gmvq", "vector-quantize-pytorch"),
    }

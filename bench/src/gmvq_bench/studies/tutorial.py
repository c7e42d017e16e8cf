"""How long the tutorial of docs/generation.md takes: its lines, one after the other, in a folder of their own.

gmvq study tutorial --out runs/tutorial
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gmvq.cli.common import parser_of
from gmvq.files import write_json
from gmvq.reading import read_text

from ..results import environment
from .records import RESULTS


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = parser_of("study tutorial", "Time the tutorial.")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for runs, tokens and samples")
    parser.add_argument("--json", type=Path, default=RESULTS / "tutorial.json", metavar="FILE")
    parser.add_argument("--note", default="", help="what else the machine did, for the page")
    options = parser.parse_args(list(argv))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "configs").symlink_to(Path("configs").resolve())
    steps = []
    for command in commands(read_text(Path("docs", "generation.md"))):
        started = time.perf_counter()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(shlex.split(command), cwd=options.out, check=True, env={**os.environ, "PATH": path})
        steps.append({"command": command, "seconds": round(time.perf_counter() - started, 1)})
    found = {"kind": "gmvq tutorial", "steps": steps, "note": options.note}
    write_json(options.json, {**found, "environment": environment(torch.device("cpu"))})
    return 0


def commands(page: str) -> list[str]:
    """The lines of the page's tutorial."""
    block = page.split("<!-- tutorial -->")[1].split("<!-- end of tutorial -->")[0]
    return [line for line in block.splitlines() if line.startswith("gmvq ")]

"""Tokens are made and read with the extra ``data`` alone: a machine that serves a tokenizer does not train one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Packages of other extras, and the compiler, which takes seconds and a third of the memory.
OTHERS = (
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "transformers",
    "matplotlib",
    "tensorboard",
    "rich",
    "jinja2",
    "shtab",
    "torch._dynamo",
)
SCRIPT = """
import sys
sys.modules.update(dict.fromkeys({others!r}))  # importing one of them is an ImportError
from gmvq.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(others=OTHERS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_encode_and_decode_without_what_trains(checkpoint: Path, array: Path, tmp_path: Path) -> None:
    tokens, pictures = tmp_path / "tokens", tmp_path / "pictures"
    for command in (
        ("encode", checkpoint, "--data", array, "--out", tokens),
        ("decode", tokens, "--out", pictures),
        ("tokens", "verify", tokens),
    ):
        done = run(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert len(list(pictures.rglob("*.png"))) == 73


def test_what_trains_is_named(tmp_path: Path) -> None:
    done = run("fit", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "lightning" in done.stderr
    assert "train" in done.stderr

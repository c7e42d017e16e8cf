"""The commands of this package in ``gmvq``: by entry points where it is installed, and not where it is absent."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmvq_bench import commands

Run = Callable[..., Any]
ROOT = Path(__file__).parents[3]
POINTS = tomllib.loads((ROOT / "bench" / "pyproject.toml").read_text())["project"]["entry-points"]


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which this package is installed, by the entry points of its pyproject.toml."""
    info = tmp_path / "gmvq_bench-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gmvq-bench\nVersion: 0\n")
    lines = [f"{name} = {value}" for name, value in POINTS["gmvq.commands"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[gmvq.commands]", *lines]))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT / "src", ROOT / "bench" / "src"))),
    }


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_is_an_entry_point() -> None:
    names = {name: f"gmvq_bench.commands:{name}" for name in commands.COMMANDS}
    assert {"gmvq.commands": names} == POINTS


def test_the_help_of_gmvq_names_the_installed_commands_and_imports_nothing_heavy(
    installed: dict[str, str],
) -> None:
    code = (
        "import sys; from gmvq.cli.main import main; main(['--help']); main(['bench', '--help']); "
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    out = run(code, installed)
    for name, command in commands.COMMANDS.items():
        assert f"  {name} " in out
        assert str(command.__doc__) in out
    assert "pip install" not in out
    assert "usage: gmvq bench TARGET" in out


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_explains_itself(gmvq: Run, command: str) -> None:
    result = gmvq(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: gmvq {command}")


@pytest.mark.parametrize(
    "argv", [["study", "nothing"], ["bench", "nothing"], ["document", "--root", "nowhere"]]
)
def test_what_is_not_there_is_said_in_one_line(gmvq: Run, argv: list[str]) -> None:
    result = gmvq(*argv)
    assert result.code == 2
    assert result.err.startswith(f"gmvq {argv[0]}: error:")
    assert result.err.count("\n") == 1

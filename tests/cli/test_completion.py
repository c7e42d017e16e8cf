"""``gmvq completion``: the scripts are whole, know every command, and complete in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("shtab")

from gmvq.cli.completion import SHELLS, whole_parser
from gmvq.cli.main import COMMANDS


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    import shtab

    parser = whole_parser()
    return {shell: shtab.complete(parser, shell=shell) for shell in SHELLS}


def complete(script: str, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    (folder / "script").write_text(script, encoding="utf-8")
    call = f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}"
    code = f'source ./script; {call}; _shtab_gmvq; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=200, cwd=folder)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(scripts: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    assert complete(scripts["bash"], tmp_path, "gmvq", "insp") == ["inspect"]
    found = complete(scripts["bash"], tmp_path, "gmvq", "fit", "--model.codebook_s")
    assert found == ["--model.codebook_size"]
    assert complete(scripts["bash"], tmp_path, "gmvq", "tokens", "ver") == ["verify"]
    assert complete(scripts["bash"], tmp_path, "gmvq", "prior", "fit", "--model.label_d") == [
        "--model.label_dropout"
    ]
    assert complete(scripts["bash"], tmp_path, "gmvq", "fit", "--config", "mi") == ["mine.yaml"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_there(scripts: dict[str, str], shell: str) -> None:
    assert all(name in scripts[shell] for name in COMMANDS)
    if shutil.which(shell):
        done = subprocess.run(
            [shell, "-n"], input=scripts[shell], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr


def test_an_unknown_shell_is_refused(gmvq: Callable[..., Any]) -> None:
    result = gmvq("completion", "tcsh")
    assert result.code == 2
    assert "choose from" in result.err

"""The command line as a whole: help without heavy imports, unknown commands, missing extras."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.cli import encode
from gmvq.cli.main import COMMANDS, main

Run = Callable[..., Any]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gmvq.cli.main import main; main(['--help']); main(['--version']); "
        "heavy = {'torch', 'lightning', 'numpy', 'jsonargparse', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    for name, summary in COMMANDS.items():
        assert f"{name}" in done.stdout
        assert summary in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_explains_every_option(gmvq: Run, command: str) -> None:
    result = gmvq(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: gmvq {command}")
    if command == "fit":
        from gmvq.cli.options import build_parser

        parser = build_parser()
        silent = [a.dest for a in parser._actions if not a.help and a.dest.startswith(("model", "data"))]
        assert not silent


def test_unknown_command(gmvq: Run) -> None:
    result = gmvq("fitt")
    assert result.code == 2
    assert result.err.startswith("gmvq: error: there is no command 'fitt'; did you mean fit? Commands: fit, ")
    assert gmvq("xyz").err.startswith("gmvq: error: there is no command 'xyz'. Commands: fit, ")


def test_unknown_option() -> None:
    for given, hint in {"--data.path x": "did you mean --data? See", "--xyz=1": "see"}.items():
        with pytest.raises(
            ValueError, match=rf"unrecognized arguments: .*; {re.escape(hint)} gmvq encode --help$"
        ):
            encode.run(["builtin:photos", "--out", "x", *given.split()])


def test_a_warning_is_one_line_and_a_programs_own_keeps_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warns(argv: list[str]) -> int:
        warnings.warn("x.jpg\x1b[2J cannot be read", stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(warnings, "showwarning", _to_stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["warns"], more={"warns": warns}) == 0
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == r"gmvq warns: warning: x.jpg\x1b[2J cannot be read"
    assert second.startswith(__file__)
    assert "FutureWarning: old" in second


def _to_stderr(
    message: Warning | str, category: type[Warning], filename: str, number: int, *_: object
) -> None:
    """As Python shows a warning outside of pytest, which collects them."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, number))


@pytest.mark.parametrize("name", ["compare", "bench", "rd", "uncertainty"])
def test_an_absent_command_says_how_to_get_it(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([name, "--suite", "quick"], more={}) == 2
    assert f"the command '{name}' is not installed" in (error := capsys.readouterr().err)
    assert "pip install ./bench" in error
    assert main([], more={}) == 2
    assert "pip install ./bench" in capsys.readouterr().out


def test_commands_of_other_packages_come_by_entry_points(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greet(argv: list[str]) -> int:
        """say hello"""
        print("hello", *argv)
        return 0

    class Point:
        name = "greet"

        @staticmethod
        def load() -> Any:
            return greet

    monkeypatch.setattr("gmvq.cli.main.entry_points", lambda group: [Point] * (group == "gmvq.commands"))
    assert main(["greet", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    assert main(["--help"]) == 0
    assert "  greet        say hello" in capsys.readouterr().out
    assert main(["greed"]) == 2
    assert "did you mean greet?" in capsys.readouterr().err


def test_python_dash_m_gmvq() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gmvq", "--version"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0
    assert done.stdout.startswith("gmvq ")


def test_no_command_prints_help(gmvq: Run) -> None:
    result = gmvq()
    assert result.code == 2
    assert "commands:" in result.out


def test_missing_extra_is_one_line(gmvq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    result = gmvq("fit")
    assert result.code == 2
    assert "pip install -e '.[train]'  # in a clone of gmvq" in result.err
    assert result.err.count("\n") == 1


def test_debug_shows_the_traceback(gmvq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMVQ_DEBUG", "1")
    result = gmvq("evaluate", "nothing")
    assert result.code == 2
    assert "Traceback" in result.err


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gmvq.cli.evaluate.run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["evaluate", "nothing"])


@pytest.mark.parametrize("error", ["torch", "numpy", "cuda"])
def test_memory_that_runs_out_is_no_traceback(capsys: pytest.CaptureFixture[str], error: str) -> None:
    def ask(argv: list[str]) -> int:
        if error == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB")
        return len(torch.empty(1 << 60) if error == "torch" else np.empty(1 << 50))

    assert main(["ask"], more={"ask": ask}) == 2
    assert "gmvq ask: error: not enough memory: " in capsys.readouterr().err

"""``gmvq completion``: a script that completes commands and options in a shell, written once and read at its start."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest import mock

from ..errors import require
from .common import Parser, parser_of

#: Shell -> what makes it read the script.
SHELLS = {
    "bash": "gmvq completion bash > ~/.local/share/bash-completion/completions/gmvq",
    "zsh": "gmvq completion zsh > ~/.zfunc/_gmvq, with fpath=(~/.zfunc $fpath) before compinit in ~/.zshrc",
    "fish": "gmvq completion fish > ~/.config/fish/completions/gmvq.fish",
}
#: What the value of an option is, by the word that stands for it in the help.
_KINDS = {"FILE": "file", "DIR": "directory", "CKPT": "file"}

Command = Callable[[list[str]], int]


def run(argv: Sequence[str]) -> int:
    """Print the script; return the exit code."""
    parser = parser_of("completion", "Print a script for your shell that completes commands and options.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "To install it:\n" + "\n".join(f"  {line}" for line in SHELLS.values())
    parser.add_argument("shell", choices=tuple(SHELLS), help="bash, zsh or fish")
    shell = parser.parse_args(list(argv)).shell
    shtab = require("shtab", "train")
    print(shtab.complete(whole_parser(), shell=shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all commands and their options.

    A command whose extra is absent is there without options.
    """
    from .main import installed, own_command, summaries

    more = installed()
    root = argparse.ArgumentParser(prog="gmvq")
    commands = root.add_subparsers(dest="command")
    for name, summary in summaries(more).items():
        command = more.get(name) or own_command(name)
        child = commands.add_parser(name, help=summary)
        if name == "prior":
            parts = child.add_subparsers(dest="what")
            for part, text in (("fit", summary), ("push", "publish a prior on the Hugging Face Hub")):
                parts.add_parser(part, help=text)
                parts.choices[part] = _with_kinds(_parser_of(command, [part]))
        else:
            commands.choices[name] = _with_kinds(_parser_of(command, []))
    return root


class _Found(BaseException):
    """Carries the parser that a command was about to use out of the command."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(command: Command, argv: list[str]) -> argparse.ArgumentParser:
    """Run a command in silence up to the point where it would parse its arguments; return the parser that it made."""

    def found(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Found(parser)

    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            mock.patch.object(Parser, "parse_known_args", found),
            mock.patch.object(argparse.ArgumentParser, "parse_args", found),
            mock.patch.object(require("jsonargparse", "train").ArgumentParser, "parse_args", found),
        ):
            command(argv)
    except _Found as stop:
        return stop.parser
    except ImportError:
        # An extra is absent.
        pass
    return argparse.ArgumentParser()


def _with_kinds(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Mark the options whose value is a file or a folder, so that the shell completes its name; drop ``--option+``."""
    shtab = require("shtab", "train")
    kinds = {"file": shtab.FILE, "directory": shtab.DIRECTORY}
    for action in parser._actions:
        # jsonargparse's --option+, which appends to a list, would keep the shell from completing --option.
        action.option_strings = [name for name in action.option_strings if not name.endswith("+")]
        kind = _KINDS.get(str(action.metavar))
        if kind or "--config" in action.option_strings:
            action.complete = kinds[kind or "file"]  # pyright: ignore[reportAttributeAccessIssue]
    return parser

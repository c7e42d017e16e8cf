"""What all commands share: the parser, kinds of options, and how they speak."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..screen import printable

if TYPE_CHECKING:
    import torch


#: Where ``gmvq fit`` makes the folders of runs.
RUNS = Path("runs")


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ValueError, with one sentence, in place of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1) if unknown else []
        hint = f"did you mean {near[0]}? See" if near else "see"
        raise ValueError(f"{message}; {hint} {self.prog} --help")


def parser_of(command: str, description: str) -> Parser:
    """Return the parser of a command."""
    return Parser(prog=f"gmvq {command}", description=description, allow_abbrev=False)


def option(
    parser: argparse.ArgumentParser, name: str, text: str, kind: Any = str, default: Any = None, **more: Any
) -> None:
    """Add an option with a value; its default, if it has one, ends its help."""
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(name, type=kind, default=default, help=text + shown, **more)


def switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add an option without a value."""
    parser.add_argument(name, action="store_true", help=text)


def add_license(parser: argparse.ArgumentParser) -> None:
    """Add the option that states a licence, in both spellings."""
    text = "licence of the weights, as the Hub spells it, such as apache-2.0 or cc-by-4.0; default: none is stated"
    parser.add_argument("--license", "--licence", metavar="ID", help=text)


def add_device(parser: Parser) -> None:
    """Add the option that says where to compute."""
    option(parser, "--device", "where to compute, such as cpu or cuda; default: cuda if there is one")


def positive(text: str) -> int:
    """Parse a positive whole number."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return number


def seed(text: str) -> int:
    """Parse a seed: what torch takes as one, a whole number of 64 bits."""
    from ..errors import check_seed

    number = int(text)
    check_seed(number)
    return number


def chosen_device(name: str | None, option: str = "--device") -> torch.device:
    """The device of an option: what was asked for, or cuda if there is one."""
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{option} {device} cannot be used here: {reason}") from error


def add_strict(parser: Parser) -> None:
    """Add the option that stops at the first bad item."""
    switch(parser, "--strict", "stop at the first item that cannot be read, in place of leaving it out")


def tell_skipped(out: Path, bad: int) -> int:
    """Say how many items were left out, as the last line; return the exit code: 1 if there are any."""
    if not bad:
        return 0
    from ..data.skipping import skipped_path

    say(f"{bad:,} item{'s' * (bad > 1)} could not be used; {skipped_path(out)} lists them with the reasons")
    return 1


def columns(rows: Iterable[tuple[str, object]], width: int = 20) -> str:
    """Labels and what belongs to them, a line each."""
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows)


def say(text: str) -> None:
    """Tell the user something that is no result, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Print a result, with names as a terminal can show them."""
    print(printable(text), flush=True)

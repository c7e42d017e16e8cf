"""``gmvq``: finds the subcommand, imports only what it needs, and turns errors of use into one line."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from io import TextIOWrapper
from typing import Any

from ..environment import version_of
from ..screen import printable

#: Our own commands, and what each does in one line; its module here has ``run(argv) -> exit code``.
COMMANDS = {
    "fit": "train a tokenizer on images, or go on with a run that was stopped",
    "transplant": "put a new codebook into a trained autoencoder, and adapt its decoder",
    "runs": "compare the runs in a folder: what differed, and what came of it",
    "evaluate": "measure a trained tokenizer over a set of images",
    "reconstruct": "encode and decode image files, to see what is lost",
    "encode": "turn a set of images into shards of tokens, or go on with a run that was stopped",
    "decode": "turn tokens back into images",
    "tokens": "check a folder of tokens, or count its codes",
    "prior": "train a distribution over tokens, to generate from",
    "sample": "draw images from a prior over tokens",
    "inspect": "look into a tokenizer and its codebook",
    "export": "write a tokenizer as ONNX, torch.export or compiled graphs",
    "app": "open a page in the browser: reconstructions, tokens, codes, samples",
    "push": "publish a tokenizer on the Hugging Face Hub, with a model card",
    "estimate": "tell the size, cost and speed of a configuration on this machine",
    "doctor": "tell versions, devices and extras, and check one step, for a bug report",
    "completion": "print a script that completes commands and options in your shell",
}
#: Other packages add commands by entry points of this group: functions of ``argv`` that return the exit code, in a
#: module that imports nothing heavy. The first line of the docstring is the summary.
GROUP = "gmvq.commands"
#: What the package of comparisons in this repository adds, for the help of those who have not installed it.
ELSEWHERE = ("compare", "bench", "rd", "uncertainty", "study", "document")
HOW_TO_GET = f"{', '.join(ELSEWHERE)} are in a package of their own: pip install ./bench, in a clone of gmvq"

Command = Callable[[list[str]], int]


def main(argv: Sequence[str] | None = None, *, more: Mapping[str, Command] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 done in part, 2 misused, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files need not be UTF-8, nor need the terminal.
        with contextlib.suppress(OSError):
            sys.stdout.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(installed() if more is None else more))
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        print(f"gmvq {version_of('gmvq')}")
        return 0
    name, *rest = arguments
    if name in COMMANDS:
        return _run(name, lambda argv: own_command(name)(argv), rest)
    more = installed() if more is None else more
    if name in more:
        return _run(name, more[name], rest)
    return _fail("gmvq", _unknown(name, [*COMMANDS, *more]))


def _run(name: str, command: Command, argv: list[str]) -> int:
    shown = warnings.formatwarning

    def said(message: Warning | str, category: type[Warning], *args: Any, **more: Any) -> str:
        """A warning that is meant for whoever runs the command, as one line; others with the line of the program."""
        own = f"gmvq {name}: warning: {message}\n"
        return printable(own if category is UserWarning else shown(message, category, *args, **more))

    warnings.formatwarning = said
    try:
        return command(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print(f"\ngmvq {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `gmvq ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = f"not enough memory: {error}" if _is_memory(error) else str(error)
        if not (_is_memory(error) or _is_misuse(error)):
            raise
        if os.environ.get("GMVQ_DEBUG"):
            traceback.print_exc()
        return _fail(f"gmvq {name}", message)
    finally:
        warnings.formatwarning = shown


def own_command(name: str) -> Command:
    """One of ``COMMANDS``, whose module is imported now."""
    return importlib.import_module(f".{name}", __package__).run


def installed() -> dict[str, Command]:
    """The commands that installed packages add."""
    return {point.name: point.load() for point in entry_points(group=GROUP)}


def summaries(more: Mapping[str, Command]) -> dict[str, str]:
    """What every command does, by its name; ``more`` are those of other packages."""
    return COMMANDS | {name: (command.__doc__ or "").partition("\n")[0] for name, command in more.items()}


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in ELSEWHERE:
        return f"the command {name!r} is not installed; {HOW_TO_GET}"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"there is no command {name!r}{hint} Commands: {', '.join(known)}"


def _is_misuse(error: Exception) -> bool:
    """Tell errors that are the user's to mend from ours, which keep their traceback."""
    from argparse import ArgumentError

    lightning_own = type(error).__name__ == "MisconfigurationException"
    return lightning_own or isinstance(error, ValueError | OSError | ImportError | ArgumentError)


def _is_memory(error: Exception) -> bool:
    """Tell that memory ran out, of the machine or of a GPU; torch says so by a RuntimeError."""
    refused = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return refused or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _fail(who: str, message: str) -> int:
    text = ""
    for line in filter(None, map(str.strip, message.splitlines())):
        text += (" " if text.endswith((":", ",", ";")) or not text else "; ") + line
    print(printable(f"{who}: error:{text}"), file=sys.stderr)
    return 2


def _help(more: Mapping[str, Command]) -> str:
    shown = summaries(more)
    width = max(map(len, shown))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in shown.items()]
    absent = [] if any(name in more for name in ELSEWHERE) else ["", HOW_TO_GET + "."]
    return "\n".join(
        [
            "usage: gmvq COMMAND [OPTIONS]",
            "",
            "Discrete tokens for images and signals by a Gaussian-mixture vector quantizer.",
            "",
            "commands:",
            *lines,
            *absent,
            "",
            "gmvq COMMAND --help explains a command; gmvq --version prints the version.",
            "GMVQ_DEBUG=1 shows the traceback of an error.",
        ]
    )

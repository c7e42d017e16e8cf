"""The commands that this package adds to ``gmvq``; the summary of each stands in ``gmvq --help``.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

Command = Callable[[list[str]], int]


def _command(name: str, summary: str) -> Command:
    def command(argv: list[str]) -> int:
        return importlib.import_module(f"gmvq_bench.cli.{name}").run(argv)

    command.__name__, command.__doc__ = name, summary
    return command


COMMANDS = {
    name: _command(name, summary)
    for name, summary in {
        "compare": "compare quantizers on the same network, tuned alike, with seeds",
        "bench": "measure speed and memory of the layer",
        "rd": "rate-distortion curves over K and beta, tokens truly coded, beside JPEG and WebP",
        "uncertainty": "ask whether a tokenizer knows when it errs, and which images are new to it",
        "study": "make a results file that the docs cite",
        "document": "write the tables and plots of the docs from the results files",
    }.items()
}
compare, bench, rd, uncertainty, study, document = COMMANDS.values()


def main(argv: Sequence[str] | None = None) -> int:
    """The whole command line of gmvq with these commands, whether this package is installed or only on the path."""
    from gmvq.cli.main import main

    return main(argv, more=COMMANDS)

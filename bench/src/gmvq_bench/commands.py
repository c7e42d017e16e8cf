"""The commands that this package adds to ``gmvq``; each first line of a docstring stands in ``gmvq --help``.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Sequence


def compare(argv: list[str]) -> int:
    """compare quantizers on the same network, tuned alike, with seeds"""
    from .cli.compare import run

    return run(argv)


def bench(argv: list[str]) -> int:
    """measure speed and memory of the layer or the training step"""
    from .cli.bench import run

    return run(argv)


def rd(argv: list[str]) -> int:
    """rate-distortion curves over K and beta, tokens truly coded, beside JPEG and WebP"""
    from .cli.rd import run

    return run(argv)


def uncertainty(argv: list[str]) -> int:
    """ask whether a tokenizer knows when it errs, and which images are new to it"""
    from .cli.uncertainty import run

    return run(argv)


def study(argv: list[str]) -> int:
    """make a results file that the docs cite: generation, bottleneck, uncertainty, signals or tutorial"""
    from .cli.study import run

    return run(argv)


def document(argv: list[str]) -> int:
    """write the tables and plots of the docs from the results files"""
    from .cli.document import run

    return run(argv)


COMMANDS = {command.__name__: command for command in (compare, bench, rd, uncertainty, study, document)}


def main(argv: Sequence[str] | None = None) -> int:
    """The whole command line of gmvq with these commands, whether this package is installed or only on the path."""
    from gmvq.cli.main import main

    return main(argv, more=COMMANDS)

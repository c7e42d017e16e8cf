"""``gmvq document``: write the tables and plots of the docs from the results files; nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gmvq.cli.common import parser_of


def run(argv: Sequence[str]) -> int:
    """Write the pages of a clone; return the exit code."""
    parser = parser_of("document", __doc__ or "")
    parser.add_argument("--root", type=Path, default=Path(), help="the clone (default: the current folder)")
    root = parser.parse_args(list(argv)).root
    if not (root / "bench" / "results").is_dir():
        raise ValueError(f"{root.resolve()} is no clone of gmvq: it has no folder bench/results")
    from ..documents.pages import write_pages

    write_pages(root)
    return 0

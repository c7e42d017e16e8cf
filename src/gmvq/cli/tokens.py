"""``gmvq tokens verify`` and ``gmvq tokens stats``: is a folder of tokens as it should be, and what is in it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import real_path, write_json
from ..progress import Progress
from .common import Parser, columns, option, parser_of, positive, say, switch, tell

if TYPE_CHECKING:
    from ..tokens import TokenStatistics


def run(argv: Sequence[str]) -> int:
    """Verify or count; return 0, or 1 if a folder is not as it should be."""
    options = _parser().parse_args(list(argv))
    return _verify(options) if options.what == "verify" else _stats(options)


def _verify(options: argparse.Namespace) -> int:
    from ..tokens import verify

    with Progress("shards", quiet=options.quiet) as progress:
        found = verify(options.dir, progress=progress)
    manifest = found.manifest
    for problem in found.problems:
        tell(problem)
    skipped = f"; {len(manifest.skipped)} images could not be decoded" if manifest.skipped else ""
    verdict = f"{len(found.problems)} problem(s)" if found.problems else "all as in the manifest"
    tell(f"{found.rows:,} rows in {len(manifest.shards)} shards{skipped}: {verdict}")
    return 1 if found.problems else 0


def _stats(options: argparse.Namespace) -> int:
    from ..tokens import statistics

    found = statistics(options.dir, split=options.split, top=options.top)
    tell(columns(_lines(found), 34))
    if options.plot:
        from ..files import save_figure
        from ..tokens.statistics import usage_figure

        save_figure(Path(options.plot), usage_figure(found, real_path(options.dir).name))
        say(f"written to {options.plot}")
    if options.json:
        write_json(options.json, found.summary())
        say(f"written to {options.json}")
    return 0


def _lines(found: TokenStatistics) -> list[tuple[str, str]]:
    from ..models.interface import sizes_text

    codes = found.codes_per_image
    shown = f"{codes:,}" if isinstance(codes, int) else f"{codes:,.1f} on average,"
    lines = [
        ("rows", f"{found.rows:,}"),
        ("codes per image", f"{shown} of {sizes_text([level.codebook_size for level in found.levels])}"),
        ("rate, entropy of the codes", _rate(found.bits_per_image, found.bits_per_pixel)),
        ("rate, codes of one length", _rate(found.fixed_bits_per_image, found.fixed_bits_per_pixel)),
    ]
    if found.tree_bits_per_image:
        lines.append(("of these for the tree", f"{found.tree_bits_per_image:.1f} bits/image"))
    if found.mean_log_variance is not None:
        lines.append(("mean log-variance of a code", f"{found.mean_log_variance:.3f}"))
    for number, level in enumerate(found.levels):
        name = f"level {number + 1}: " if len(found.levels) > 1 else ""
        top = ", ".join(f"{code} ({share:.2%})" for code, share in level.top_codes)
        lines += [
            (f"{name}perplexity", f"{level.perplexity:.1f}"),
            (f"{name}codes used", f"{level.codes_used:,} ({level.usage:.1%})"),
            (f"{name}bits per code", f"{level.bits_per_code:.3f}"),
            (f"{name}most used codes", top),
        ]
    return lines


def _rate(image: float, pixel: float) -> str:
    return f"{image:,.1f} bits per image, {pixel:.4f} per pixel"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("tokens", "Check a folder of tokens, or count its codes.")
    commands = parser.add_subparsers(dest="what", metavar="verify|stats", required=True, parser_class=Parser)
    text = "read every shard and compare it with the manifest"
    check = commands.add_parser("verify", help=text, allow_abbrev=False)
    count = commands.add_parser("stats", help="rate, perplexity, usage, most used codes", allow_abbrev=False)
    for one in (check, count):
        one.add_argument("dir", metavar="DIR", help="folder written by gmvq encode")
    switch(check, "--quiet", "show no progress")
    option(count, "--split", "count this split only")
    option(count, "--top", "how many of the most used codes to name", positive, 10, metavar="N")
    option(count, "--plot", "plot how often each code is used: .png, .svg or .pdf", metavar="FILE")
    option(count, "--json", "write the figures", metavar="FILE")
    return parser

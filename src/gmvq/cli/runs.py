"""``gmvq runs``: the runs in a folder, what differs between their configurations, and what came of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import one_line, require
from ..reading import is_number, read_json, read_text
from ..screen import printable
from .common import RUNS, option, parser_of, say, switch, tell
from .config_files import check_config_file

#: The figures of the table: key in metrics.json, heading, factor, format.
_RESULTS = (
    ("mse", "MSE x 1e-3", 1e3, ".3f"),
    ("psnr", "PSNR dB", 1.0, ".2f"),
    ("ssim", "SSIM", 1.0, ".4f"),
    ("perplexity", "perplexity", 1.0, ",.1f"),
    ("usage", "usage", 1.0, ".1%"),
    ("elbo", "-ELBO bits/dim", 1.0, ".3f"),
    ("bits_per_token", "bits/token", 1.0, ".3f"),
)
#: What is the run's and not the configuration's.
_OWN = {"name", "out", "config", "ckpt_path"}


def run(argv: Sequence[str]) -> int:
    """List; return the exit code."""
    options = _parser().parse_args(list(argv))
    folder = Path(options.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; gmvq fit makes runs in {RUNS}/")
    found = [run for file in sorted(folder.rglob("config.yaml")) if (run := _read(file.parent, folder))]
    if not found:
        raise FileNotFoundError(f"{folder} holds no runs: expected folders with config.yaml and run.json")
    differing = _differing([run["config"] for run in found])
    for one in found:
        one["config"] = {key: one["config"].get(key) for key in differing}
    if options.sort:
        known = sorted({key for one in found for key in one["results"]})
        if options.sort not in known:
            raise ValueError(f"--sort: expected one of {', '.join(known)}; got {options.sort}")
        found.sort(key=lambda one: one["results"].get(options.sort, float("inf")))
    if options.json:
        tell(json.dumps(found, indent=2))
        return 0
    _print(found, differing)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "runs",
        "Print a table of the runs in a folder: what differs between their configurations, how far they are, and their "
        "figures on the test images, or on the validation images while they are not finished (marked by a star).",
    )
    text = f"folder in which to look for runs, at any depth (default: {RUNS})"
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default=str(RUNS), help=text)
    text = "order by this figure, such as mse, the least first; default: by name"
    option(parser, "--sort", text, metavar="KEY")
    switch(parser, "--json", "print one JSON array, with all figures")
    return parser


def _read(run_dir: Path, root: Path) -> dict[str, Any] | None:
    """What is known about one run; None where a folder is none, or cannot be read, which is said."""
    if not (run_dir / "run.json").is_file():
        return None
    from ..evaluation.history import read_history

    try:
        check_config_file(run_dir / "config.yaml")
        config = _flat(require("yaml", "train").safe_load(read_text(run_dir / "config.yaml")))
        # A run of fewer steps than are between two records has no history.
        history = read_history(run_dir / "history.jsonl")
        finished = (run_dir / "metrics.json").is_file()
        last = {name: values[-1] for name, (_, values) in history.curves.items()}
        validation = {
            key.removeprefix("validation/"): value for key, value in last.items() if "validation/" in key
        }
        results = read_json(run_dir / "metrics.json") if finished else validation
        numbers = {key: value for key, value in results.items() if is_number(value)}
    except Exception as error:  # a broken file makes a parser of YAML raise almost anything
        say(f"{run_dir} is left out: {one_line(error, 200)}")
        return None
    name = str(run_dir.relative_to(root)) if run_dir != root else run_dir.name
    steps = history.last_step or 0
    return {"run": name, "steps": steps, "finished": finished, "config": config, "results": numbers}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if prefix or key not in _OWN:
            found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options that do not have one value in all runs; seeds that follow from --seed are left out."""
    names = dict.fromkeys(name for config in configs for name in config)
    different = [
        name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)
    ]
    return [name for name in different if name not in ("model.seed", "data.seed")]


def _print(found: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> None:
    require("rich.console", "train")
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [row for row in _RESULTS if any(row[0] in one["results"] for one in found)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("run", "steps", *differing):
        table.add_column(Text(printable(heading)), overflow="fold")
    for _, heading, _, _ in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        star = "" if one["finished"] else "*"
        figures = [
            f"{value * factor:{style}}{star}" if (value := one["results"].get(key)) is not None else ""
            for key, _, factor, style in shown
        ]
        cells = [one["run"], f"{one['steps']:,}", *(str(one["config"][key]) for key in differing), *figures]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    # In a file or a pipe a line is as long as it has to be.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)

"""The tables and plots of the docs and of the README from the results files; nothing is measured.

A page holds two markers for each generated part, ``<!-- NAME: gmvq document -->`` and ``<!-- end of NAME -->``.
docs/results.md and docs/comparisons.md are generated as a whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gmvq.files import write_text
from gmvq.reading import read_json, read_text

from ..comparison.plots import plot_all
from ..comparison.report import render as report
from ..comparison.report import short_table
from ..comparison.runs import KIND, takes_part
from ..comparison.suite import Suite, load_suite, suite_names
from ..gradients.study import table
from ..markdown import render
from ..rate_distortion.report import plot as plot_rates
from ..rate_distortion.report import tables
from ..results import read
from ..robust.report import ablation_table
from ..speed.table import render as speed_tables
from . import values
from .verdict import APART, verdict

#: Page -> part -> the results files that its template needs.
_PARTS = {
    "reliability": {
        "reliability": ("reliability", "fuzz", "export"),
        "broken writes": ("broken_writes",),
        "resumed": ("resumed",),
        "soak": ("soak",),
    },
    "generation": {"generation": ("generation",)},
    "compositions": {"levels": ("levels",), "scales": ("scales",), "ragged": ("ragged",)},
    "codes": {"codes": ("codes",)},
    "migration": {"convert": ("convert",)},
    "transplant": {"transplant": ("transplant",)},
    "signals": {"signals": ("signals",)},
    "training": {"stage": ("stage",)},
    "uncertainty": {"uncertainty": ("uncertainty",), "bottleneck": ("bottleneck",)},
}
#: Parts whose templates need ``values``.
_MORE = ("ragged", "uncertainty", "bottleneck")
#: Part of the page on performance -> its results file.
_SPEED = {"cells": "cells", "layer": "layer_cpu"}
_FIRST = ("long", "paper", "photos32", "fashion_mnist", "emoji64")


def write_pages(root: Path) -> None:
    """Write every page of a clone whose results files are there."""
    write_parts(root)
    _write_results(root / "bench" / "results", root / "docs", root / "README.md")


def write_parts(root: Path) -> None:
    """Write the parts of pages that stand between markers, but for the README's."""
    kept, docs = root / "bench" / "results", root / "docs"
    found = {path.stem: read_json(path) for path in kept.glob("*.json")}
    for page, parts in _PARTS.items():
        for part, files in parts.items():
            if all(file in found for file in files):
                more = getattr(values, part)(found[part], docs / page) if part in _MORE else {}
                text = render(f"{files[0]}.md.j2", **{file: found[file] for file in files}, **more)
                write_between(docs / f"{page}.md", part, text)
    for part, file in _SPEED.items():
        if file in found:
            write_between(docs / "performance.md", part, speed_tables(found[file]))
    studies = [found[name] for name in sorted(found) if name.startswith("rd_")]
    if studies:
        write_between(docs / "rate_distortion.md", "rate-distortion", _rates(studies, docs))


def write_between(page: Path, name: str, body: str) -> None:
    """Replace what stands between a page's two markers of this name."""
    text = read_text(page)
    first, last = f"<!-- {name}: gmvq document -->", f"<!-- end of {name} -->"
    start, end = text.find(first), text.find(last)
    if not 0 <= start < end:
        raise ValueError(f"{page} must hold the lines {first!r} and {last!r}")
    write_text(page, f"{text[:start]}{first}\n\n{body.strip()}\n\n{text[end:]}")


def _rates(studies: list[dict[str, Any]], docs: Path) -> str:
    parts = []
    for study in studies:
        name = study["study"]["data"]
        plot_rates(study, docs / "rate_distortion" / f"{name}.png")
        title = f"## {name}, {study['study']['size']} px"
        parts += [title, f"![rate-distortion, {name}](rate_distortion/{name}.png)", tables(study).strip()]
    return "\n\n".join(parts)


def _write_results(folder: Path, docs: Path, readme: Path) -> None:
    """docs/results.md, docs/comparisons.md with its plots, and the README's table."""
    files = {path.stem: path for path in (folder / "compare").glob("*.json")}
    order = [name for name in _FIRST if name in files] + sorted(set(files) - set(_FIRST))
    results = [read(files[name], KIND) for name in order]
    shutil.rmtree(docs / "results", ignore_errors=True)
    apart = [result for result in results if result["suite"]["name"] in APART]
    shown = merged([result for result in results if result not in apart])
    studies = {path.stem: read_json(path) for path in folder.glob("*.json")}
    first = verdict(studies, [*apart, shown])
    ablations, gradients = studies.get("robust_ablations"), studies.get("gradients")
    settings = [name for name, value in shown["suite"]["settings"].items() if value["codebook_size"] == 256]
    short = render(
        "results.md.j2",
        verdict=first,
        own=short_table(shown, settings),
        ablations=ablation_table(ablations) if ablations else "",
        gradients=gradients,
    )
    full = render(
        "comparisons.md.j2",
        suites=[_suite(result, docs / "results") for result in results],
        missing=_missing(results),
        gradients=table(gradients) if gradients else "",
    )
    write_text(docs / "results.md", short.rstrip() + "\n")
    write_text(docs / "comparisons.md", full.rstrip() + "\n")
    write_between(readme, "results", first)


def _missing(results: list[dict[str, Any]]) -> list[Suite]:
    """The suites of the package with a setting that no results file has."""
    known = [setting for result in results for setting in result["suite"]["settings"].values()]
    suites = map(load_suite, suite_names())
    return [suite for suite in suites if any(s not in known for s in suite.to_dict()["settings"].values())]


def _suite(result: dict[str, Any], pictures: Path) -> str:
    """One suite: its report and its plots."""
    drawn = plot_all(result, pictures)
    images = [f"![{path.stem.replace('_', ' ')}](results/{path.name})" for path in drawn]
    return "\n\n".join([report(result), *images]) + "\n"


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Several suites as one; of a setting that two of them have, the first counts."""
    settings, methods = dict[str, Any](), dict[str, Any]()
    runs: list[dict[str, Any]] = []
    for result in results:
        suite = result["suite"]
        new = {name: value for name, value in suite["settings"].items() if name not in settings}
        settings |= new
        runs += [run for run in result["runs"] if run["setting"] in new]
        for name, method in suite["methods"].items():
            places = [setting for setting in new if takes_part(method, setting)]
            if places:
                known = methods.setdefault(name, {**method, "settings": []})
                known["settings"] += places
    suite = results[0]["suite"] | {"settings": settings, "methods": methods}
    return results[0] | {"suite": suite, "runs": runs}

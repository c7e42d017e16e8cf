"""docs/results.md and the README's table from the results files of ``gmvq compare``, and their plots.

    python benchmarks/document.py

reads benchmarks/results/compare/*.json and writes docs/results.md, docs/results/*.png and the part of README.md between
its two markers. Nothing is measured.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from gmvq.bench.results import read
from gmvq.cli.runs import write_text
from gmvq.compare.gradients import plot, table
from gmvq.compare.plots import plot_all
from gmvq.compare.report import render, short_table
from gmvq.compare.results import KIND
from gmvq.compare.suite import load_suite, suite_names

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "compare"
FIRST = ("quick", "photos32", "fashion_mnist", "emoji64", "ablations")
MARKERS = ("<!-- results: python benchmarks/document.py -->", "<!-- end of results -->")
HEAD = """\
# Results

Every figure here is made by the command above its table and kept in `benchmarks/results/compare`; this page, its plots
and the README's table are written by `python benchmarks/document.py`. What was tried and did not help is in
[experiments.md](experiments.md). One row is made again by
`gmvq compare --suite NAME --methods METHOD --settings SETTING`.
"""


def main() -> None:
    files = {path.stem: path for path in RESULTS.glob("*.json")}
    order = [name for name in FIRST if name in files] + sorted(set(files) - set(FIRST))
    results = [read(files[name], KIND) for name in order]
    pictures = ROOT / "docs" / "results"
    shutil.rmtree(pictures, ignore_errors=True)
    parts = [HEAD, *(_section(result, pictures) for result in results), _not_run(order)]
    write_text(ROOT / "docs" / "results.md", "\n".join(parts))
    _into_readme(results)
    print(f"docs/results.md and README.md from {', '.join(order)}")


def _section(result: dict[str, Any], pictures: Path) -> str:
    """One suite: its report, its study of gradients, its plots."""
    text = render(result)
    drawn = plot_all(result, pictures)
    if result.get("gradients"):
        drawn.append(pictures / f"{result['suite']['name']}_gradients.png")
        plot(result["gradients"], drawn[-1])
        text += "\n" + table(result["gradients"])
    images = [f"![{path.stem.replace('_', ' ')}](results/{path.name})" for path in drawn]
    return "\n\n".join([text, *images]) + "\n"


def _not_run(done: list[str]) -> str:
    missing = [load_suite(name) for name in suite_names() if name not in done]
    if not missing:
        return ""
    rows = [f"- `gmvq compare --suite {suite.name}`: {suite.description}" for suite in missing]
    return "## Not yet run\n\n" + "\n".join(rows) + "\n"


def _into_readme(results: list[dict[str, Any]]) -> None:
    """The short table of every setting with 256 codes that has rivals, between the markers."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    start, end = (text.find(marker) for marker in MARKERS)
    if not 0 <= start < end:
        raise ValueError(f"README.md must hold the lines {MARKERS[0]!r} and {MARKERS[1]!r}")
    shown = merged([result for result in results if not result["suite"].get("reference")])
    settings = [name for name, value in shown["suite"]["settings"].items() if value["codebook_size"] == 256]
    body = f"{MARKERS[0]}\n\n{short_table(shown, settings)}\n"
    write_text(readme, text[:start] + body + text[end:])


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Several suites as one; of a setting that two of them have, the first counts."""
    whole: dict[str, Any] = json.loads(json.dumps(results[0]))
    for result in results[1:]:
        new = {k: v for k, v in result["suite"]["settings"].items() if k not in whole["suite"]["settings"]}
        whole["suite"]["settings"] |= new
        whole["suite"]["methods"] = result["suite"]["methods"] | whole["suite"]["methods"]
        whole["runs"] += [run for run in result["runs"] if run["setting"] in new]
    return whole


if __name__ == "__main__":
    main()

"""docs/results.md, docs/reliability.md, the README's table and the plots of ``gmvq compare`` from the results files.

    gmvq document

reads bench/results/compare/*.json, reliability.json, export.json and fuzz.json and writes docs/results.md,
docs/results/*.png and the parts of README.md and docs/reliability.md between their markers. Nothing is measured.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from gmvq.files import write_text

from ..comparison.plots import plot_all
from ..comparison.report import render, short_table
from ..comparison.results import KIND
from ..comparison.suite import load_suite, suite_names
from ..gradients.study import plot, table
from ..results import read
from ..speed.table import table as table_of
from . import generation, uncertainty

FIRST = ("quick", "photos32", "fashion_mnist", "emoji64", "ablations")
HEAD = """\
# Results

**These tables are of the layer of version 0.1.0**, whose start, coordinates and learning have changed since
([experiments.md](experiments.md), [CHANGELOG](../CHANGELOG.md)); they are to be regenerated.

Every figure here is made by the command above its table and kept in `bench/results/compare`; this page, its plots
and the README's table are written by `gmvq document`. What was tried and did not help is in
[experiments.md](experiments.md). One row is made again by
`gmvq compare --suite NAME --methods METHOD --settings SETTING`. The whole of `quick`, made again from a clean
clone (31 minutes on two cores), gave every mean to the digits shown.
"""


def write_pages(root: Path) -> None:
    """Write every page of a clone."""
    kept = root / "bench" / "results"
    files = {path.stem: path for path in (kept / "compare").glob("*.json")}
    order = [name for name in FIRST if name in files] + sorted(set(files) - set(FIRST))
    results = [read(files[name], KIND) for name in order]
    pictures = root / "docs" / "results"
    shutil.rmtree(pictures, ignore_errors=True)
    parts = [HEAD, *(_section(result, pictures) for result in results), _not_run(order)]
    write_text(root / "docs" / "results.md", "\n".join(parts))
    shown = merged([result for result in results if not result["suite"].get("reference")])
    settings = [name for name, value in shown["suite"]["settings"].items() if value["codebook_size"] == 256]
    _between(root / "README.md", "results", short_table(shown, settings))
    _between(root / "docs" / "reliability.md", "reliability", _reliability(kept))
    generation.write(root, _between)
    uncertainty.write(root, _between)
    print(f"docs/results.md, docs/reliability.md and README.md from {', '.join(order)}")


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


def _between(page: Path, name: str, body: str) -> None:
    """Replace what stands between a page's two markers of this name."""
    text = page.read_text(encoding="utf-8")
    first, last = f"<!-- {name}: gmvq document -->", f"<!-- end of {name} -->"
    start, end = text.find(first), text.find(last)
    if not 0 <= start < end:
        raise ValueError(f"{page} must hold the lines {first!r} and {last!r}")
    write_text(page, f"{text[:start]}{first}\n\n{body}\n{text[end:]}")


def _reliability(kept: Path) -> str:
    """Tables of the killed encodings, their speed, and the fuzzed inputs."""
    runs = json.loads((kept / "reliability.json").read_text(encoding="utf-8"))
    fuzz = json.loads((kept / "fuzz.json").read_text(encoding="utf-8"))
    rows = [
        [
            f"{runs[name]['images']:,}",
            *(str(runs[name][what]) for what in ("kills", "rows_lost", "rows_doubled")),
            "yes" if runs[name]["identical"] else "**no**",
        ]
        for name in ("kills", "small_kills")
    ]
    exported = json.loads((kept / "export.json").read_text(encoding="utf-8"))
    check = exported["check"]
    speed, peak = runs["speed"], runs["kills"]["peak_memory_bytes"] / 2**30
    return "\n".join(
        [
            f"`{runs['command']}`, {runs['environment']['device']}, torch {runs['environment']['torch']}:",
            "",
            table_of(
                ["images", "times killed", "rows lost", "rows doubled", "same bytes as uninterrupted"], rows
            ),
            "",
            f"Encoding runs at {speed['ratio']:.2f} of the bare loop's images per second "
            f"({speed['ratio_with_opening']:.2f} with the opening of the data, {speed['ratio_cpu_time']:.2f} by CPU "
            f"time), {speed['images_per_second_encode']:,.0f} images per second; peak memory {peak:.2f} GiB.",
            "",
            f"`{exported['command']}`: of {check['indices']:,} indices of {check['images']:,} images ONNX gives "
            f"{check['indices'] - check['differing']:,} as the model does, the other {check['differing']} are ties of "
            f"rounding; decoded values differ by at most {check['largest_image_difference']:.1e}.",
            "",
            f"`{fuzz['command']}`, {fuzz['date']}, seed {fuzz['seed']}: {fuzz['inputs']:,} inputs, "
            f"{fuzz['unexpected']} unexpected.",
            "",
            table_of(
                ["kind", "inputs", "accepted", "refused", "unexpected"],
                [
                    [name, *map(str, (found["inputs"], *_endings(found)))]
                    for name, found in fuzz["kinds"].items()
                ],
            ),
            "",
        ]
    )


def _endings(found: dict[str, Any]) -> list[int]:
    """Inputs accepted, refused and unexpected."""
    accepted, wrong = (found["outcomes"].get(name, 0) for name in ("accepted", "unexpected"))
    return [accepted, found["inputs"] - accepted - wrong, wrong]


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Several suites as one; of a setting that two of them have, the first counts."""
    whole: dict[str, Any] = json.loads(json.dumps(results[0]))
    for result in results[1:]:
        new = {k: v for k, v in result["suite"]["settings"].items() if k not in whole["suite"]["settings"]}
        whole["suite"]["settings"] |= new
        whole["suite"]["methods"] = result["suite"]["methods"] | whole["suite"]["methods"]
        whole["runs"] += [run for run in result["runs"] if run["setting"] in new]
    return whole

"""The generated parts of docs/generation.md and docs/rate_distortion.md; called by pages.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..comparison.statistics import mean_interval
from ..rate_distortion.report import bounds_table, codec_table, plot, table

Between = Callable[[Path, str, str], None]
_KINDS = {
    "reconstructions": "reconstructions of test images (no prior)",
    "prior": "prior, z = mu_c",
    "prior, noise 0.25": "prior, z ~ N(mu_c, 0.25^2 / w)",
    "prior, noise 0.5": "prior, z ~ N(mu_c, 0.5^2 / w)",
    "prior, noise 1": "prior, z ~ N(mu_c, 1 / w)",
    "floor": "mixture alone, c ~ pi",
}
_FIGURES = (
    ("fid", "FID", 1.0, ".1f"),
    ("kid", "KID", 1.0, ".2f"),
    ("precision", "precision", 1.0, ".3f"),
    ("recall", "recall", 1.0, ".3f"),
)


def write(root: Path, between: Between) -> None:
    """Write the parts whose results files are there, by ``between(page, name of the part, text)``."""
    results, docs = root / "bench" / "results", root / "docs"
    if (results / "generation.json").is_file():
        between(docs / "generation.md", "generation", generation(_read(results / "generation.json")))
    if (results / "tutorial.json").is_file():
        between(docs / "generation.md", "tutorial times", tutorial(_read(results / "tutorial.json")))
    studies = [_read(path) for path in sorted(results.glob("rd_*.json"))]
    if studies:
        between(
            docs / "rate_distortion.md", "rate-distortion", rate_distortion(studies, docs / "rate_distortion")
        )


def generation(found: dict[str, Any]) -> str:
    """Every kind of sample of every method: mean and interval over training seeds."""
    records = found["records"]
    methods = list(dict.fromkeys(r["method"] for r in records))
    seeds = sorted({r["seed"] for r in records})
    lines = [
        f"| tokens of | images | {' | '.join(label for _, label, _, _ in _FIGURES)} |",
        "| --- " * 6 + "|",
    ]
    for method in methods:
        own = [r for r in records if r["method"] == method]
        for kind, title in _KINDS.items():
            if all(kind in r["samples"] for r in own):
                cells = [
                    _interval([scale * r["samples"][kind][name]["value"] for r in own], style)
                    for name, _, scale, style in _FIGURES
                ]
                lines.append(f"| {method} | {title} | {' | '.join(cells)} |")
    lines += [
        "",
        "| tokens of | bits per image under the prior (masked: a bound) | entropy of the codes, bits per image |",
        "| --- | --- | --- |",
    ]
    for method in methods:
        own = [r["bits_per_image"] for r in records if r["method"] == method]
        cells = [_interval([r[name] for r in own], ".1f") for name in ("prior", "entropy")]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    metrics, settings = records[0]["samples"]["prior"], found["settings"]
    lines += [
        "",
        f"`{found['command']}`; features: {metrics['extractor']} (figures compare with each other alone); "
        f"{metrics['real']:,} test images, {metrics['generated']:,} generated; prior {settings['prior_size']}, "
        f"{settings['prior_steps']} steps, no labels; training seeds {', '.join(map(str, seeds))}, mean ± 95 % "
        f"interval over them (each run's own interval by half-samples is in the file). "
        f"{found['environment']['device']}, torch {found['environment']['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def tutorial(found: dict[str, Any]) -> str:
    """How long each line took."""
    lines = ["| command | seconds |", "| --- | --- |"]
    lines += [
        f"| `{' '.join(step['command'].split()[:3])} ...` | {step['seconds']:.0f} |"
        for step in found["steps"]
    ]
    total = sum(step["seconds"] for step in found["steps"])
    where = found["environment"]
    return (
        "\n".join(
            [
                *lines,
                "",
                f"{total / 60:.1f} minutes in all, {where['device']}, torch {where['torch']}. {found['note']}",
            ]
        )
        + "\n"
    )


def rate_distortion(studies: list[dict[str, Any]], pictures: Path) -> str:
    """Tables and the plot of every study."""
    parts = []
    for study in studies:
        name = study["study"]["data"]
        plot(study, pictures / f"{name}.png")
        parts += [
            f"## {name}, {study['study']['size']} px",
            f"![rate-distortion, {name}]({pictures.name}/{name}.png)",
        ]
        parts += [table(study), "Bits per dimension, upper bounds:", bounds_table(study), codec_table(study)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _interval(values: list[float], style: str) -> str:
    mean, half = mean_interval(values)
    return f"{mean:{style}} ± {half:{style}}" if half is not None else f"{mean:{style}}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))

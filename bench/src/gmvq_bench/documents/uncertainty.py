"""The tables and plots of docs/uncertainty.md, from uncertainty.json and bottleneck.json; called by pages.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..comparison.statistics import mean_interval, paired
from ..speed.table import table
from ..uncertainty.measure import LABELS, Bin
from ..uncertainty.plot import draw_calibration, draw_estimates, save
from ..uncertainty.ranks import Estimate

Between = Callable[[Path, str, str], None]
OURS = ("gm-vq", "gm-vq, D = 16")
TITLES = {
    "fashion_mnist-k256": "Fashion-MNIST against digits",
    "photos32-k256": "Photographs against emoji",
}
PROBES = {
    "linear_latents": "linear, latents",
    "linear_codes": "linear, codes",
    "linear_histogram": "linear, histogram",
    "knn_latents": "kNN, latents",
    "knn_latents_cosine": "kNN, cosine",
    "knn_codes": "kNN, codes",
}


def write(root: Path, between: Between) -> None:
    """Write the parts of the page whose results files are there, by ``between(page, name of the part, text)``."""
    results, page = root / "bench" / "results", root / "docs" / "uncertainty.md"
    if (results / "uncertainty.json").is_file():
        found = json.loads((results / "uncertainty.json").read_text(encoding="utf-8"))
        between(page, "uncertainty", uncertainty(found, page.with_suffix("")))
    if (results / "bottleneck.json").is_file():
        found = json.loads((results / "bottleneck.json").read_text(encoding="utf-8"))
        between(page, "bottleneck", bottleneck(found))


def uncertainty(found: dict[str, Any], pictures: Path) -> str:
    """Tables of every setting, and its picture into the folder ``pictures``."""
    parts = [_provenance(found)]
    for setting in dict.fromkeys(r["setting"] for r in found["records"]):
        runs = [r for r in found["records"] if r["setting"] == setting]
        records = [r for r in runs if r["method"] == OURS[0]]
        _draw(pictures / f"{setting}.png", records)
        parts += [
            f"### {TITLES.get(setting, setting)}",
            _sets(records),
            _correlations(records),
            _calibration(records),
            _detection(records),
            _beside(runs),
            f"![{setting}: error by quantile of log s², rank correlations, AUROC]({pictures.name}/{setting}.png)",
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def bottleneck(found: dict[str, Any]) -> str:
    """The table of the probes and that of rFID."""
    records = [r for r in found["records"] if r["seed"] >= 0]
    methods = list(dict.fromkeys(r["method"] for r in records))
    rows = []
    for method in methods:
        own = [r for r in records if r["method"] == method]
        start = [
            method,
            f"{own[0]['bits']:.0f}",
            _mean(r["bits_entropy"] for r in own),
            str(own[0]["features"]),
        ]
        rows.append([*start, *(_percent(r["probe"][name] for r in own) for name in PROBES)])
    for record in (r for r in found["records"] if r["seed"] < 0):
        linear, knn = (100 * record["probe"][name] for name in ("linear_pixels", "knn_pixels"))
        rows.append(["the pixels themselves", "", "", "784", f"{linear:.1f}", "", "", f"{knn:.1f}", "", ""])
    header = ["method", "bits", "entropy coded", "latent features", *PROBES.values()]
    seeds = len({r["seed"] for r in records})
    settings = found["settings"]
    return "\n\n".join(
        [
            _provenance(found),
            f"Accuracy in per cent on {settings['test']:,} test images, fitted to {settings['train']:,}; mean over "
            f"{seeds} seeds and half its 95 % t-interval.",
            table(header, rows),
            _against_rivals(records, methods),
            _rfid(records, settings),
        ]
    )


def _against_rivals(records: list[dict[str, Any]], methods: list[str]) -> str:
    """Ours less the rival that is best in the mean, for each figure, paired by seed."""
    rivals = [m for m in methods if m not in OURS]
    if not rivals:
        return ""
    rows = []
    for name, label in PROBES.items():
        values = {
            m: {r["seed"]: 100 * r["probe"][name] for r in records if r["method"] == m} for m in methods
        }
        best = max(rivals, key=lambda m: sum(values[m].values()) / len(values[m]))
        row = [label, best]
        for ours in (m for m in OURS if m in methods):
            difference = paired(values[ours], values[best])
            half = "" if difference.half_width is None else f" ± {difference.half_width:.1f}"
            row.append(f"{difference.difference:+.1f}{half}")
        rows.append(row)
    return table(["", "best rival", *(f"{m} less it" for m in OURS if m in methods)], rows)


def _rfid(records: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    records = [r for r in records if r["rfid"]]
    if not records:
        return ""
    rows = []
    for record in records:
        fid = record["rfid"]
        rows.append(
            [
                record["method"],
                *(_estimate(fid[name], ".2f") for name in ("fid", "fid_unbounded")),
                _estimate({k: 1000 * v for k, v in fid["kid"].items()}, ".2f"),
                *(_estimate(fid[name], ".3f") for name in ("precision", "recall")),
            ]
        )
    seeds = ", ".join(map(str, sorted({r["seed"] for r in records})))
    text = (
        f"Reconstructions of the first {settings['fid']:,} test images against the images, features of "
        f"{records[0]['rfid']['extractor']}, seed {seeds}; intervals by half-samples of the images:"
    )
    header = ["method", "rFID", "to infinitely many images", "KID x 1e3", "precision", "recall"]
    return f"{text}\n\n{table(header, rows)}\n"


def _sets(records: list[dict[str, Any]]) -> str:
    first = records[0]["uncertainty"]
    scaled = [[1000 * r[name] for r in records] for name in ("mse", "mse_other")]
    return (
        f"{first['images']:,} test images ({first['dataset']}) against {first['out_images']:,} "
        f"({first['out_dataset']}); MSE {_mean(scaled[0])}e-3 and {_mean(scaled[1])}e-3; {len(records)} seeds."
    )


def _correlations(records: list[dict[str, Any]]) -> str:
    found = [r["uncertainty"] for r in records]
    rows = [
        [
            _label(name),
            *(_mean((u[part][name]["value"] for u in found), ".3f") for part in ("local", "whole")),
        ]
        for name in found[0]["local"]
    ]
    rows.append(["log s², given the contrast", _mean((u["partial"]["value"] for u in found), ".3f"), ""])
    return table(["Spearman correlation with the squared error", "per position", "per image"], rows)


def _calibration(records: list[dict[str, Any]]) -> str:
    found = [r["uncertainty"] for r in records]
    count = len(found[0]["bins"])
    rows = [
        [
            str(i + 1),
            _mean(u["bins"][i]["log_variance"] for u in found),
            _mean((1000 * u["bins"][i]["error"]["value"] for u in found), ".2f"),
        ]
        for i in range(count)
    ]
    ratio = [u["bins"][-1]["error"]["value"] / u["bins"][0]["error"]["value"] for u in found]
    text = (
        f"The error around the positions with the highest tenth of log s² is {_mean(ratio, '.1f')} times that of the "
        f"lowest; the slope of log error on log s² is {_mean((u['slope'] for u in found), '.2f')} (1: proportional)."
    )
    return f"{table(['tenth of log s²', 'mean log s²', 'error x 1e3'], rows)}\n\n{text}"


def _detection(records: list[dict[str, Any]]) -> str:
    found = [r["uncertainty"] for r in records]
    rows = []
    for name in found[0]["auroc"]:
        gain = "" if name == "mse" else _mean((u["advantage"][name]["value"] for u in found), "+.3f")
        rows.append([_label(name), _mean((u["auroc"][name]["value"] for u in found), ".3f"), gain])
    return table(["score", "AUROC", "less that of the MSE"], rows)


def _beside(runs: list[dict[str, Any]]) -> str:
    """Ours and other methods by the one score that all have, the distance of a latent to its codeword."""
    methods = sorted({r["method"] for r in runs})
    if len(methods) < 2:
        return ""
    rows = []
    for method in methods:
        found = [r["uncertainty"] for r in runs if r["method"] == method]
        values = [
            (u["local"]["log_variance"], u["partial"], u["whole"]["log_variance"], u["auroc"]["log_variance"])
            for u in found
        ]
        gains = (u["advantage"]["log_variance"]["value"] for u in found)
        cells = [_mean((v["value"] for v in column), ".3f") for column in zip(*values, strict=True)]
        rows.append([method, *cells, _mean(gains, "+.3f")])
    head = ["log of the distance to the codeword", "per position", "given the contrast", "per image", "AUROC"]
    return table([*head, "less that of the MSE"], rows)


def _draw(path: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(12.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    found = [r["uncertainty"] for r in records]
    curves = [
        (
            f"seed {r['seed']}",
            [Bin(b["log_variance"], Estimate(**b["error"])) for b in r["uncertainty"]["bins"]],
        )
        for r in records
    ]
    draw_calibration(axes[0], curves)
    for ax, part, label, nothing in (
        (axes[1], "local", "rank correlation with the error, per position", 0.0),
        (axes[2], "auroc", f"AUROC against {records[0]['other']}", 0.5),
    ):
        draw_estimates(
            ax, {n: _over_seeds([u[part][n]["value"] for u in found]) for n in found[0][part]}, label, nothing
        )
    save(path, figure)


def _label(name: str) -> str:
    return LABELS[name].replace("|", "\\|")


def _over_seeds(values: list[float]) -> Estimate:
    mean, half = mean_interval(values)
    return Estimate(mean, mean - (half or 0.0), mean + (half or 0.0))


def _mean(values: Iterable[float], style: str = ".2f") -> str:
    """Mean over seeds and half its 95 % t-interval."""
    mean, half = mean_interval(values)
    return format(mean, style) if half is None else f"{mean:{style}} ± {half:{style.lstrip('+')}}"


def _percent(values: Iterable[float]) -> str:
    return _mean((100 * value for value in values), ".1f")


def _estimate(estimate: dict[str, float], style: str) -> str:
    value, low, high = (format(estimate[name], style) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _provenance(found: dict[str, Any]) -> str:
    env = found["environment"]
    return f"`{found['command']}`, {env['device']}, {env['threads']} thread, torch {env['torch']}:"

"""docs/signals.md's figures: from two run folders to a results file, a table and a plot.

    gmvq fit --config configs/speech.yaml --out runs/speech
    gmvq fit --config configs/series.yaml --out runs/series
    gmvq study signals runs/speech runs/series

writes bench/results/signals.json, docs/figures/signals.png and the table between the markers of docs/signals.md.
Nothing is trained. Without run folders the table alone is written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from gmvq import VQAutoencoder
from gmvq.data import SignalDataset, SignalScale, open_signals
from gmvq.evaluation.signals import SignalMetrics
from gmvq.files import write_text

ROOT = Path(__file__).resolve().parents[4]
RESULTS = ROOT / "bench" / "results" / "signals.json"
NAMES: tuple[str, ...] = ("speech", "series")
#: (heading, key of metrics.json, factor, format)
COLUMNS = (
    ("MSE x 1e-3", "mse", 1000, ".3f"),
    ("SNR, dB", "snr", 1, ".1f"),
    ("per window, dB", "snr_per_window", 1, ".1f"),
    ("log-spectral distance, dB", "log_spectral_distance", 1, ".1f"),
    ("perplexity", "perplexity", 1, ".0f"),
    ("bits/sample", "bits_per_pixel_fixed", 1, ".2f"),
    ("entropy coded", "bits_per_pixel_entropy", 1, ".2f"),
    ("bits/second, entropy coded", "bits_per_second_entropy", 1, ",.0f"),
)


def run(folders: Sequence[str]) -> int:
    """Write results, plot and table; return the exit code."""
    if folders:
        runs: dict[str, Path] = dict(zip(NAMES, map(Path, folders), strict=True))
        write_text(
            RESULTS, json.dumps({name: record(name, run) for name, run in runs.items()}, indent=1) + "\n"
        )
        draw(runs, ROOT / "docs" / "figures" / "signals.png")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = ROOT / "docs" / "signals.md"
    begin, end = "<!-- figures: gmvq study signals -->", "<!-- end of figures -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = f"{begin}\n\n{table(results)}\n\n{end}"
    write_text(page, pattern.sub(lambda _: text, page.read_text(encoding="utf-8")))
    return 0


def record(name: str, run: Path) -> dict[str, Any]:
    """What is kept of a run: its figures on the test split, and how they came about."""
    last = json.loads((run / "run.json").read_text(encoding="utf-8"))[-1]
    about = {key: last[key] for key in ("started", "device", "device_name", "threads", "versions")}
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {"command": f"gmvq fit --config configs/{name}.yaml", "seed": 0, **about, "metrics": metrics}


def table(results: dict[str, Any]) -> str:
    lines = [
        "| set | " + " | ".join(heading for heading, *_ in COLUMNS) + " |",
        "| --- " * (len(COLUMNS) + 1) + "|",
    ]
    for name, result in results.items():
        values = [
            "-" if (value := result["metrics"].get(key)) is None else format(factor * value, style)
            for _, key, factor, style in COLUMNS
        ]
        lines.append(f"| `configs/{name}.yaml` | {' | '.join(values)} |")
    return "\n".join(lines)


def draw(runs: dict[str, Path], target: Path) -> None:
    """One test window of each run: the signal, its reconstruction and the error."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, (name, run) in zip(figure.subplots(len(runs), 1), runs.items(), strict=True):
        model, data = VQAutoencoder.from_pretrained(run / "model"), test_windows(run)
        item = loud(data) if name == "speech" else 3
        window = data[item]
        made = model.reconstruct(window[None])[0].clamp(0, 1)
        metrics = SignalMetrics()
        metrics.update(made[None], window[None])
        rate = data.sample_rate or 128
        time = torch.arange(window.shape[1]) / rate
        for label, values, colour in (
            ("original", data.scale.from_unit(window)[0], "#3b82f6"),
            ("reconstruction", data.scale.from_unit(made)[0], "#f97316"),
            ("error", (data.scale.from_unit(made) - data.scale.from_unit(window))[0], "#10b981"),
        ):
            axes.plot(time, values, label=label, color=colour, linewidth=0.8, alpha=0.85)
        axes.set_title(
            f"{name}: {data.item_name(item)}, SNR {metrics.compute()['snr']:.1f} dB", fontsize=9, loc="left"
        )
        axes.set_xlabel("seconds", fontsize=8)
        axes.set_ylabel("amplitude" if data.sample_rate else "mV", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.margins(x=0)
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=80)
    temporary.replace(target)


def test_windows(run: Path) -> SignalDataset:
    notes = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["metadata"]["data"]
    scale = SignalScale.from_settings(notes)
    assert scale is not None
    limits = (scale.low, scale.high)
    return open_signals(
        notes["path"], split="test", size=notes["size"], channels=notes["channels"], value_range=limits
    )


def loud(data: SignalDataset) -> int:
    """An item louder than three quarters of them: a window in which somebody speaks."""
    energy = torch.stack([data[i].var() for i in range(len(data))])
    return int(energy.argsort()[3 * len(data) // 4])

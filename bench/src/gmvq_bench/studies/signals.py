"""docs/signals.md's figures: from two run folders to a results file and a plot; nothing is trained.

gmvq fit --config configs/speech.yaml --out runs/speech
gmvq fit --config configs/series.yaml --out runs/series
gmvq study signals runs/speech runs/series; gmvq document
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from gmvq import VQAutoencoder
from gmvq.cli.common import parser_of
from gmvq.data import SignalDataset, SignalScale, open_signals
from gmvq.evaluation.signals import SignalMetrics
from gmvq.files import save_figure, write_json
from gmvq.reading import read_json

from .records import RESULTS

NAMES = ("speech", "series")


def run(argv: Sequence[str]) -> int:
    """Write the results file and the plot; return the exit code."""
    parser = parser_of("study signals", "Figures of two runs.")
    for name in NAMES:
        parser.add_argument(name, type=Path, help=f"run folder of configs/{name}.yaml")
    runs = vars(parser.parse_args(list(argv)))
    write_json(RESULTS / "signals.json", {name: record(name, folder) for name, folder in runs.items()})
    draw(runs, Path("docs", "figures", "signals.png"))
    return 0


def record(name: str, run: Path) -> dict[str, Any]:
    """What is kept of a run: its figures on the test split, and how they came about."""
    last = read_json(run / "run.json")[-1]
    about = {key: last[key] for key in ("started", "device", "device_name", "threads", "versions")}
    metrics = read_json(run / "metrics.json")
    return {"command": f"gmvq fit --config configs/{name}.yaml", "seed": 0, **about, "metrics": metrics}


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
        time = torch.arange(window.shape[1]) / (data.sample_rate or 128)
        signal, copy = data.scale.from_unit(window)[0], data.scale.from_unit(made)[0]
        for label, values, colour in (
            ("original", signal, "#3b82f6"),
            ("reconstruction", copy, "#f97316"),
            ("error", copy - signal, "#10b981"),
        ):
            axes.plot(time, values, label=label, color=colour, linewidth=0.8, alpha=0.85)
        snr = metrics.compute()["snr"]
        axes.set_title(f"{name}: {data.item_name(item)}, SNR {snr:.1f} dB", fontsize=9, loc="left")
        axes.set_xlabel("seconds", fontsize=8)
        axes.set_ylabel("amplitude" if data.sample_rate else "mV", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.margins(x=0)
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    save_figure(target, figure, dpi=80)


def test_windows(run: Path) -> SignalDataset:
    """The test split that a run was measured on."""
    notes = read_json(run / "model" / "config.json")["metadata"]["data"]
    scale = SignalScale.from_settings(notes)
    assert scale is not None
    shape = {"size": notes["size"], "channels": notes["channels"]}
    return open_signals(notes["path"], split="test", value_range=(scale.low, scale.high), **shape)


def loud(data: SignalDataset) -> int:
    """An item louder than three quarters of them: a window in which somebody speaks."""
    energy = torch.stack([data[i].var() for i in range(len(data))])
    return int(energy.argsort()[3 * len(data) // 4])

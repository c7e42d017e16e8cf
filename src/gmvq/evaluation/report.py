"""``write_report``: one self-contained HTML page about a trained tokenizer, to read, print and keep."""

from __future__ import annotations

import base64
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..environment import versions
from ..errors import require
from ..files import write_text
from ..models.interface import code_sizes, device_of, sizes_text
from ..reading import read_json, read_text
from ..screen import printable
from . import plots
from .batches import Images, description_of
from .codebook import DUPLICATE_ODDS, code_histogram, inspect_codebook
from .history import History, read_history
from .pictures import decoded_codewords, png_bytes
from .samples import photographs, samples
from .tables import Row, codebook_rows, full_use, metric_rows, skipped_by_reason, small_sample_note

#: (heading, axis label, logarithmic, names after the prefix "train/" or "validation/")
_CURVES = (
    ("Reconstruction", "MSE of [0, 1] data", True, ("mse",)),
    ("Loss", "loss", False, ("loss",)),
    ("Codebook terms of the loss", "nats per position", False, ("kl_aggregate", "latent")),
    ("Perplexity", "codes", False, ("perplexity",)),
    ("Entropies", "nats per position", False, ("conditional_entropy", "aggregate_entropy", "information")),
    ("Temperature and noise", "value", False, ("temperature", "gumbel_noise", "sample_noise", "noise")),
    ("Sharpening and precision", "value", True, ("sharpening", "precision")),
    ("PSNR", "dB", False, ("psnr",)),
)
#: The share of the training time spent waiting for data that is worth a word.
_MUCH_WAITING = 0.1
_PREFIXES = ("train", "validation", "test")
_TILES = (
    *("snr", "psnr", "ssim", "mse", "perplexity", "usage"),
    *("bits_per_pixel_entropy", "bits_per_second_entropy", "elbo"),
)


def write_report(
    run_dir: str | os.PathLike[str],
    model: nn.Module,
    dataset: Images,
    *,
    title: str,
    command: str | Sequence[str],
    images: int = 8,
) -> Path:
    """Write ``run_dir/report.html``: metrics, curves, reconstructions, uncertainty, codebook, reproduction.

    The page needs no other file and loads nothing from anywhere; it reads in light and dark and prints. Of
    the run it uses what is there: ``metrics.json`` (see ``write_metrics``), ``history.jsonl`` (see
    ``read_history``), ``run.json`` and ``config.yaml``. The codes of the whole data set are counted once more.

    Args:
        run_dir: folder of the run; the report goes there, replacing an older one in one step.
        model: a trained tokenizer (``VQAutoencoder``).
        dataset: a map-style dataset of images (C, H, W) or signals (C, T) in [0, 1], a loader or a tensor; its
            ``description``, ``item_name(i)`` and, of signals, ``scale`` are used if it has them.
        title: heading of the page.
        command: what was run, as one line or as arguments.
        images: number of images shown, spread evenly over the set.

    Returns:
        The path of the report.

    Raises:
        MissingExtraError: matplotlib, Jinja2 or Pillow is not installed.
        ValueError: there is no image, or the model does not return images.
    """
    for module, extra in (("matplotlib", "train"), ("jinja2", "train"), ("PIL.Image", "data")):
        require(module, extra)
    folder = Path(run_dir)
    metrics, problem = _read_metrics(folder / "metrics.json")
    history = read_history(folder / "history.jsonl")
    rows, config = metric_rows(metrics), folder / "config.yaml"
    curves = _curves(history, metrics)
    text = _render(
        "report.html.j2",
        title=title,
        facts=_facts(dataset, model, history),
        tiles=_tiles(rows, metrics),
        photographs=photographs(model, dataset),
        samples=samples(model, dataset, images),
        rows=rows,
        remarks=_remarks(metrics, problem),
        codebook=_codebook(model, dataset),
        curves=curves,
        training_notes=_training_notes(history, curves, _data_wait(folder / "run.json")),
        command=command if isinstance(command, str) else shlex.join(command),
        config=read_text(config, "replace").strip() if config.is_file() else "",
        environment=_environment(dataset, device_of(model)),
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _render(template: str, **values: Any) -> str:
    """Fill in a template of this folder, which escapes texts; a name that it asks for and is not given is an error."""
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gmvq.evaluation"),
        autoescape=True,
        # What is no markup of ours may hold what turns text around.
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A picture as an address that holds it.
    environment.filters["png"] = lambda picture: (
        f"data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode('ascii')}"
    )
    return environment.get_template(template).render(values)


def _facts(dataset: Images, model: nn.Module, history: History) -> list[str]:
    quantizer: Any = getattr(model, "quantizer", None)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = [
        description_of(dataset),
        f"{type(quantizer).__name__}, {sizes_text(code_sizes(quantizer))} codes of {quantizer.dim} features",
        f"{parameters / 1e6:.2f} M parameters",
        "" if history.last_step is None else f"{history.last_step:,} steps",
    ]
    return [fact for fact in facts if fact]


def _tiles(rows: list[Row], metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    by_key = {row.key: row for row in rows}
    units = {key: row.unit for key, row in by_key.items()}
    if "codebook_size" in by_key and not metrics.get("codebook_sizes"):
        full = full_use(metrics)
        whole = by_key["codebook_size"].value if full is None else f"{full[1]:,.0f} expected at full use"
        units["perplexity"] = f"of {whole}"
    shown = [by_key[key] for key in _TILES if key in by_key]
    return [(row.label, row.value, units[row.key]) for row in shown]


def _remarks(metrics: Mapping[str, Any], problem: str) -> list[str]:
    if problem:
        return [problem]
    what = "MSE, PSNR and SNR" if metrics.get("snr") is not None else "Image metrics"
    remarks = [f"{what} are of reconstructions clamped to [0, 1], data range 1."]
    remarks += small_sample_note(metrics)
    for reason, keys in skipped_by_reason(metrics).items():
        remarks.append(f"Not measured: {', '.join(keys)}: {reason}.")
    return remarks


def _curves(history: History, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Heading and plot of every group of curves that the run has."""
    found = []
    size = None if metrics.get("codebook_sizes") else metrics.get("codebook_size")
    for heading, label, log, names in _CURVES:
        keys = [f"{prefix}/{name}" for prefix in _PREFIXES for name in names]
        series = [(key.replace("_", " "), *history.curves[key]) for key in keys if key in history.curves]
        limit = None
        if heading == "Entropies" and isinstance(size, int) and size > 1:
            limit = (f"log {size}", float(np.log(size)))
        if series:
            label = series[0][0].rpartition("/")[2] if label == "value" and len(series) == 1 else label
            found.append((heading, plots.line_chart(series, label=label, log=log, limit=limit)))
    return found


def _training_notes(history: History, curves: Sequence[Any], waited: float) -> list[str]:
    notes = [] if curves else ["There is no history.jsonl with curves in the folder of the run."]
    if history.broken_lines:
        notes.append(f"{history.broken_lines} line(s) of history.jsonl could not be read and were left out.")
    if waited > _MUCH_WAITING:
        notes.append(
            f"{waited:.0%} of the training time was spent waiting for data: give more processes to read it "
            "(--data.num_workers), or smaller files."
        )
    return notes


def _data_wait(path: Path) -> float:
    """The share of the training time spent waiting for data, by run.json; 0 where it does not say."""
    try:
        return float(read_json(path)[-1]["data_wait"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return 0.0


def _codebook(model: nn.Module, dataset: Images) -> dict[str, Any]:
    tokenizer: Any = model
    found: dict[str, Any] = {"plots": [], "rows": [], "notes": [], "sheet": None, "caption": ""}
    try:
        report = inspect_codebook(model, dataset)
    except ValueError as error:
        found["notes"].append(str(error))
        histogram = code_histogram(model, dataset)
    else:
        histogram = report.histogram
        found["rows"] = codebook_rows(report.summary())
        if report.nearest.numel():
            mark = None
            if report.near_duplicates is not None:
                mark = ("near-duplicate", (-2.0 * float(np.log(DUPLICATE_ODDS))) ** 0.5)
            label = f"distance to the nearest other codeword, {report.unit}"
            chart = plots.distance_chart(report.nearest.numpy(), label=label, mark=mark)
            found["plots"].append(("Nearest pairs", chart))
    assert histogram is not None  # there is a data set
    found["plots"].insert(0, ("Usage over the data set", plots.usage_chart(histogram.numpy())))
    try:
        found["sheet"] = decoded_codewords(model, codes=histogram.argsort(descending=True, stable=True))
    except (ValueError, RuntimeError, IndexError) as error:
        found["notes"].append(f"Codewords cannot be shown as pictures: {error}")
    shown = min(1024, int(tokenizer.quantizer.codebook_size))
    found["caption"] = (
        f"{shown:,} codewords, each decoded as a constant patch of 3 x 3, arranged by similarity"
    )
    return found


def _environment(dataset: Images, device: torch.device) -> dict[str, Any]:
    name = f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = f"{device}: {torch.cuda.get_device_name(device)}"
    return {
        "data": description_of(dataset) or type(dataset).__name__,
        "device": name,
        **versions("python", "torch", "numpy", "gmvq"),
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _read_metrics(path: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        return {}, "There is no metrics.json in the folder of the run: the model was not evaluated."
    try:
        values = read_json(path)
    except ValueError as error:
        return {}, f"metrics.json cannot be read: {error}"
    return (values, "") if isinstance(values, dict) else ({}, "metrics.json holds no JSON object.")

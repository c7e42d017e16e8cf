"""Metrics on paper: names, units and digits of every figure, as terminal table, report rows and JSON file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_json
from ..models.interface import sizes_text
from .evaluate import Evaluation
from .metrics import expected_perplexity, expected_usage

#: (key, label, unit, format) in the order of printing; a format is that of ``format``.
_FIGURES = (
    ("images", "images", "", ",d"),
    ("mse", "MSE", "x 1e-3", ".3f"),
    ("psnr", "PSNR of the mean MSE", "dB", ".2f"),
    ("psnr_per_image", "PSNR, mean over images", "dB", ".2f"),
    ("ssim", "SSIM", "", ".4f"),
    ("snr", "SNR", "dB", ".2f"),
    ("snr_per_window", "SNR, mean over windows", "dB", ".2f"),
    ("log_spectral_distance", "log-spectral distance", "dB", ".2f"),
    ("codebook_size", "codebook size", "codes", ",d"),
    ("codes_used", "codes used", "codes", ",d"),
    ("usage", "usage", "", ".1%"),
    ("perplexity", "perplexity", "codes", ",.1f"),
    ("code_entropy", "entropy of the codes", "nats/position", ".3f"),
    ("positions_per_image", "latent positions", "per image", "g"),
    ("tree_bits_per_image", "bits of the tree", "per image", ".1f"),
    ("bits_per_pixel_fixed", "rate, codes of one length", "bits/pixel", ".4f"),
    ("bits_per_pixel_entropy", "rate, entropy coded", "bits/pixel", ".4f"),
    ("bits_per_second_fixed", "rate, codes of one length", "bits/second", ",.0f"),
    ("bits_per_second_entropy", "rate, entropy coded", "bits/second", ",.0f"),
    ("conditional_entropy", "H(q(c|x))", "nats/position", ".3f"),
    ("aggregate_entropy", "H(qbar)", "nats/position", ".3f"),
    ("information", "I_q(x; c)", "nats/position", ".3f"),
    ("kl_aggregate", "KL(qbar || pi)", "nats/position", ".4f"),
    ("elbo", "-ELBO", "bits/dimension", ".3f"),
    ("albo", "-ALBO (no bound)", "bits/dimension", ".3f"),
    ("elbo_discrete", "-ELBO at z = mu_c", "bits/dimension", ".3f"),
    ("importance_weighted", "-importance-weighted bound", "bits/dimension", ".3f"),
)


#: The same of a codebook (``CodebookReport.summary``); "std" is that of a component.
_CODEBOOK = (
    ("codes_used", "codes used", "codes", ",d"),
    ("usage", "usage", "", ".1%"),
    ("perplexity", "perplexity", "codes", ",.1f"),
    ("code_entropy", "entropy of the codes", "nats", ".3f"),
    ("effective_codes", "effective number of distinct codewords", "codes", ",.1f"),
    ("effective_codes_used", "the same, weighted by use", "codes", ",.1f"),
    ("near_duplicates", "near-duplicate codewords", "codes", ",d"),
    ("nearest_min", "nearest other codeword, least", "std", ".3g"),
    ("nearest_median", "nearest other codeword, median", "std", ".3g"),
    ("nearest_max", "nearest other codeword, greatest", "std", ".3g"),
    ("component_std", "component standard deviation", "std at the start", ".3g"),
    ("weights_perplexity", "perplexity of the mixture weights", "codes", ",.1f"),
)


@dataclass(frozen=True)
class Row:
    """One figure: its key, label, formatted value and unit."""

    key: str
    label: str
    value: str
    unit: str


def metric_rows(values: Mapping[str, Any]) -> list[Row]:
    """Format the known figures among ``values``; those absent or None are left out."""
    rows = []
    signals = len(values.get("image_shape") or ()) == 2
    for key, label, unit, style in _FIGURES:
        value, sizes = values.get(key), values.get("codebook_sizes")
        if signals:
            label, unit = (t.replace("image", "window").replace("pixel", "sample") for t in (label, unit))
        if key == "positions_per_image" and values.get("tree_bits_per_image") is not None:
            label = "codes"
        if isinstance(value, int | float) and not isinstance(value, bool):
            scale = 1000 if unit == "x 1e-3" else 1
            shown = sizes_text(sizes) if sizes and key == "codebook_size" else _format(scale * value, style)
            rows.append(Row(key, label, shown, unit))
    return rows


def codebook_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Format the known figures of a codebook; those absent or None are left out."""
    mixture = summary.get("component_std") is not None
    return [
        Row(
            key, label, _format(summary[key], style), unit if mixture or unit != "std" else "units of latents"
        )
        for key, label, unit, style in _CODEBOOK
        if summary.get(key) is not None
    ]


def format_table(evaluation: Evaluation | Mapping[str, Any]) -> str:
    """Return the figures as an aligned plain-text table with units, and below it what was skipped and why."""
    values = evaluation.to_dict() if isinstance(evaluation, Evaluation) else evaluation
    rows = metric_rows(values)
    label_width = max((len(row.label) for row in rows), default=0)
    value_width = max((len(row.value) for row in rows), default=0)
    lines = [f"{row.label:<{label_width}}  {row.value:>{value_width}}  {row.unit}".rstrip() for row in rows]
    lines += small_sample_note(values)
    labels = {key: label for key, label, _, _ in _FIGURES}
    for reason, keys in skipped_by_reason(values).items():
        lines.append(f"skipped: {', '.join(labels.get(key, key) for key in keys)}: {reason}")
    return "\n".join(lines)


def full_use(values: Mapping[str, Any]) -> tuple[float, float] | None:
    """Usage and perplexity to expect of these figures' sample if all codes were equally likely.

    None where the sample is large enough for it not to matter: the perplexity would be 95 % of the codebook or more.
    None, too, of levels with sizes of their own, whose samples are not known here.
    """
    if values.get("codebook_sizes"):
        return None
    positions, size = values.get("positions"), values.get("codebook_size")
    if positions is None and values.get("images") and values.get("positions_per_image"):
        positions = round(values["images"] * values["positions_per_image"])
    if not positions or not size:
        return None
    perplexity = expected_perplexity(positions, size)
    return None if perplexity >= 0.95 * size else (expected_usage(positions, size), perplexity)


def small_sample_note(values: Mapping[str, Any]) -> list[str]:
    """Say what usage and perplexity can be expected to reach, as one sentence, where the sample limits them."""
    full = full_use(values)
    if full is None:
        return []
    return [
        f"a small sample for {values['codebook_size']:,} codes: if all were used alike, a usage of {full[0]:.1%} and a "
        f"perplexity of {full[1]:,.1f} would be expected of it"
    ]


def skipped_by_reason(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The figures that were not measured, by the reason why."""
    reasons: dict[str, list[str]] = {}
    skipped = values.get("skipped")
    for key, reason in (skipped if isinstance(skipped, Mapping) else {}).items():
        reasons.setdefault(str(reason), []).append(str(key))
    return reasons


def write_metrics(path: str | os.PathLike[str], evaluation: Evaluation | Mapping[str, Any]) -> Path:
    """Write the figures as JSON with their units, whole or not at all; NaN and infinity become null."""
    values = evaluation.to_dict() if isinstance(evaluation, Evaluation) else dict(evaluation)
    units = {key: f"{label} [{unit}]" if unit else label for key, label, unit, _ in _FIGURES}
    units["mse"] = "MSE of values in [0, 1]"
    values["units"] = {key: unit for key, unit in units.items() if key in values}
    write_json(path, _finite(values))
    return Path(path)


def _format(value: float, style: str) -> str:
    if not math.isfinite(value):
        return str(value)
    return format(int(value) if style.endswith("d") else float(value), style)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value

"""``gmvq inspect``: what a tokenizer is, how its codebook is used, and what its codewords look like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import columns, option, say, tell
from .loaded import Loaded, add_data_options, data_if_here, list_skipped, load, parser_for_model


def run(argv: Sequence[str]) -> int:
    """Inspect; return 0, or 1 if an item could not be read."""
    options = _parser().parse_args(list(argv))
    loaded = load(options)
    images = data_if_here(options, loaded, "the use of the codes is not counted", "count it")

    from ..evaluation import decoded_codewords, inspect_codebook, save_png
    from ..evaluation.tables import codebook_rows, small_sample_note

    report = inspect_codebook(loaded.model, images, batch_size=options.batch_size)
    rows = _model_rows(loaded) + ([("counted over", images.description)] if images is not None else [])
    rows += [(row.label, f"{row.value} {row.unit}".strip()) for row in codebook_rows(report.summary())]
    tell("\n".join([columns(rows, 40), *small_sample_note(report.summary())]))
    out = Path(options.out) if options.out else loaded.folder / "inspect"
    if loaded.spatial_dims != 2:
        say("codewords are drawn as pictures, and the model is of signals: no picture is written")
        return list_skipped(out, options, loaded, images)
    written = [save_png(out / "codebook.png", decoded_codewords(loaded.model))]
    if report.histogram is not None:
        most_used = report.histogram.argsort(descending=True, stable=True)[:64]
        picture = decoded_codewords(loaded.model, codes=most_used[report.histogram[most_used] > 0])
        written.append(save_png(out / "codebook-most-used.png", picture))
    say(f"written: {', '.join(map(str, written))}")
    return list_skipped(out, options, loaded, images)


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "inspect",
        "Print what a tokenizer is and how distinct its codewords are; write pictures of the codewords.",
    )
    add_data_options(parser, default="what the model was trained on, if it is here")
    option(parser, "--out", "folder of the pictures; default: inspect/ beside the model", metavar="DIR")
    return parser


def _model_rows(loaded: Loaded) -> list[tuple[str, str]]:
    from ..models.interface import code_sizes, sizes_text

    model, quantizer = loaded.model, loaded.model.quantizer
    networks: Any = getattr(model.encoder, "config", {})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step = loaded.downsample
    area = f"{step} samples" if loaded.spatial_dims == 1 else f"{step} x {step} pixels"
    rows = [
        ("network", f"{networks['name']}, {parameters / 1e6:.2f} M parameters"),
        ("images", f"{loaded.channels} channels, one token for {area}"),
        ("quantizer", type(quantizer).__name__),
        ("codebook", f"{sizes_text(code_sizes(quantizer))} codes of {quantizer.dim} features"),
    ]
    if loaded.notes.get("step") is not None:
        rows.append(("trained for", f"{loaded.notes['step']:,} steps"))
    if loaded.data:
        rows.append(("trained on", f"{loaded.data.get('path')} at {loaded.data.get('size')} pixels"))
    return rows

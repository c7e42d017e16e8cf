"""``gmvq inspect``: what a tokenizer is, how its codebook is used, and what its codewords look like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import Loaded, load, option, parser_for_model, say, tell
from .data_options import add_data_options, data_if_here


def run(argv: Sequence[str]) -> int:
    """Inspect; return the exit code."""
    options = _parser().parse_args(list(argv))
    loaded = load(options)
    images = data_if_here(options, loaded, "the use of the codes is not counted", "count it")

    from ..evaluation import decoded_codewords, inspect_codebook, save_png
    from ..evaluation.tables import codebook_rows, small_sample_note

    report = inspect_codebook(loaded.model, images, batch_size=options.batch_size)
    tell("\n".join(_model_lines(loaded)))
    if images is not None:
        tell(_line("counted over", images.description))
    for row in codebook_rows(report.summary()):
        tell(_line(row.label, f"{row.value} {row.unit}".strip()))
    for note in small_sample_note(report.summary()):
        tell(note)
    if loaded.spatial_dims != 2:
        say("codewords are drawn as pictures, and the model is of signals: no picture is written")
        return 0
    out = Path(options.out) if options.out else _folder(loaded)
    written = [save_png(out / "codebook.png", decoded_codewords(loaded.model))]
    if report.histogram is not None:
        most_used = report.histogram.argsort(descending=True, stable=True)[:64]
        picture = decoded_codewords(loaded.model, codes=most_used[report.histogram[most_used] > 0])
        written.append(save_png(out / "codebook-most-used.png", picture))
    say(f"written: {', '.join(map(str, written))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "inspect",
        "Print what a tokenizer is and how distinct its codewords are; write pictures of the codewords.",
    )
    add_data_options(parser, default="what the model was trained on, if it is here")
    option(parser, "--out", "folder of the pictures; default: inspect/ beside the model", metavar="DIR")
    return parser


def _folder(loaded: Loaded) -> Path:
    if loaded.path is None:
        return Path("inspect")
    folder = loaded.path if loaded.path.is_dir() else loaded.path.parent
    return (folder.parent if folder.name in ("model", "checkpoints") else folder) / "inspect"


def _model_lines(loaded: Loaded) -> list[str]:
    model, quantizer = loaded.model, loaded.model.quantizer
    networks: Any = getattr(model.encoder, "config", {})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step = loaded.downsample
    area = f"{step} samples" if loaded.spatial_dims == 1 else f"{step} x {step} pixels"
    lines = [
        _line("network", f"{networks['name']}, {parameters / 1e6:.2f} M parameters"),
        _line("images", f"{loaded.channels} channels, one token for {area}"),
        _line("quantizer", type(quantizer).__name__),
        _line("codebook", f"{quantizer.codebook_size:,} codes of {quantizer.dim} features"),
    ]
    if loaded.notes.get("step") is not None:
        lines.append(_line("trained for", f"{loaded.notes['step']:,} steps"))
    if loaded.data:
        lines.append(_line("trained on", f"{loaded.data.get('path')} at {loaded.data.get('size')} pixels"))
    return lines


def _line(label: str, text: str) -> str:
    return f"{label:<40}{text}"

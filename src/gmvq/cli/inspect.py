"""``gmvq inspect``: what a tokenizer is, how its codebook is used, and what its codewords look like."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Loaded, load, parser_for_model, say
from .data_options import add_data_options, open_data

if TYPE_CHECKING:
    from ..data import TrainingSet

_LABELS = {
    "codes_used": "codes used",
    "usage": "usage",
    "perplexity": "perplexity",
    "code_entropy": "entropy of the codes (nats)",
    "effective_codes": "distinct codewords, effectively",
    "effective_codes_used": "the same, weighted by use",
    "near_duplicates": "near-duplicates",
    "nearest_min": "distance to the nearest, least",
    "nearest_median": "distance to the nearest, median",
    "nearest_max": "distance to the nearest, greatest",
    "component_std": "std of a component (standardised)",
    "weights_perplexity": "perplexity of the mixture's weights",
}


def run(argv: Sequence[str]) -> int:
    """Inspect; return the exit code."""
    options = _parser().parse_args(list(argv))
    loaded = load(options)
    images = _images(options, loaded)

    from ..evaluation import decoded_codewords, inspect_codebook, save_png

    report = inspect_codebook(loaded.model, images, batch_size=options.batch_size)
    print("\n".join(_model_lines(loaded)))
    if images is not None:
        print(_line("counted over", images.description))
    print("\n".join(_codebook_lines(report.summary())))
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
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the pictures; default: inspect/ beside the model"
    )
    return parser


def _images(options: argparse.Namespace, loaded: Loaded) -> TrainingSet | None:
    """The images to count codes over; without --data those of training, unless they are not on this machine."""
    trained = str((loaded.notes.get("data") or {}).get("path") or "")
    if options.data:
        return open_data(options, loaded)
    if not trained or trained.startswith("hf:"):  # no download that nobody asked for
        say("the use of the codes is not counted; give --data PATH for that")
        return None
    try:
        return open_data(options, loaded)
    except (OSError, ValueError, ImportError) as error:
        say(f"the use of the codes is not counted: {error}")
        return None


def _folder(loaded: Loaded) -> Path:
    if loaded.path is None:
        return Path("inspect")
    folder = loaded.path if loaded.path.is_dir() else loaded.path.parent
    return (folder.parent if folder.name in ("model", "checkpoints") else folder) / "inspect"


def _model_lines(loaded: Loaded) -> list[str]:
    model, quantizer = loaded.model, loaded.model.quantizer
    networks: Any = getattr(model.encoder, "config", {})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        _line("network", f"{networks['name']}, {parameters / 1e6:.2f} M parameters"),
        _line(
            "images",
            f"{loaded.channels} channels, one token for "
            + (
                f"{loaded.downsample} samples"
                if loaded.spatial_dims == 1
                else f"{loaded.downsample} x {loaded.downsample} pixels"
            ),
        ),
        _line("quantizer", type(quantizer).__name__),
        _line("codebook", f"{quantizer.codebook_size:,} codes of {quantizer.dim} features"),
    ]
    if loaded.notes.get("step") is not None:
        lines.append(_line("trained for", f"{loaded.notes['step']:,} steps"))
    data = loaded.notes.get("data") or {}
    if data:
        lines.append(_line("trained on", f"{data.get('path')} at {data.get('size')} pixels"))
    return lines


def _codebook_lines(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, label in _LABELS.items():
        value = summary.get(key)
        if value is not None:
            text = (
                f"{value:.1%}"
                if key == "usage"
                else f"{value:,}"
                if isinstance(value, int)
                else f"{value:,.3f}"
            )
            lines.append(_line(label, text))
    if summary.get("nearest_min") is not None:
        lines.append(_line("unit of the distances", str(summary["unit"])))
    return lines


def _line(label: str, text: str) -> str:
    return f"{label:<36}{text}"

"""``gmvq export``: a tokenizer as two graphs that run without this package, checked before they are kept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Loaded, Parser, load, positive, say
from .data_options import add_data_options, open_data

if TYPE_CHECKING:
    from torch import Tensor


def run(argv: Sequence[str]) -> int:
    """Export; return the exit code."""
    options = _parser().parse_args(list(argv))
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is a folder, but {out} is a file")
    loaded = load(options)

    from ..export import FORMATS, export_model

    images, source = _images(options, loaded)
    if options.format == "aoti":
        say("compiling, which takes a minute")
    notes = export_model(loaded.model, out, options.format, images=images, source=source, opset=options.opset)
    print("\n".join(_lines(notes)))
    names = (*FORMATS[options.format], "export.json")
    say(f"written: {', '.join(str(out / name) for name in names)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="gmvq export",
        description="Write a tokenizer as two graphs, images to indices and indices to images, for any batch and size, "
        "after comparing them with the model.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="a run folder, a saved model folder, a .ckpt file, or owner/name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--format",
        choices=("onnx", "torch-export", "aoti"),
        default="onnx",
        help="onnx (default); torch-export: programs for torch.export.load; aoti: compiled for the CPU of this machine",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the two files and export.json")
    parser.add_argument("--opset", type=positive, default=18, help="operator set of ONNX (default: 18)")
    add_data_options(parser, default="what the model was trained on, if it is here")
    parser.add_argument(
        "--limit", type=positive, default=1024, help="compare on so many images at most (default: 1024)"
    )
    parser.set_defaults(device="cpu")
    return parser


def _images(options: argparse.Namespace, loaded: Loaded) -> tuple[Iterator[Tensor] | None, str]:
    """The images to compare on; without --data those of training, and random ones where they are not here."""
    trained = str((loaded.notes.get("data") or {}).get("path") or "")
    if not options.data and (not trained or trained.startswith("hf:")):  # no download that nobody asked for
        say("compared on random images; give --data PATH to compare on yours")
        return None, ""
    from ..evaluation.batches import device_of, image_batches

    try:
        data = open_data(options, loaded)
    except (OSError, ValueError, ImportError) as error:
        if options.data:
            raise
        say(f"compared on random images: {error}")
        return None, ""
    device = device_of(loaded.model)
    batches = image_batches(data, batch_size=options.batch_size, device=device, limit=options.limit)
    return batches, data.description


def _lines(notes: dict[str, Any]) -> list[str]:
    check = notes["check"]
    same, error = check["indices"] - check["differing"], check["largest_image_difference"]
    lines = [
        f"images   {_shape(notes['images']['shape'])} float32 in [0, 1]; {notes['sizes']}",
        f"indices  {_shape(notes['indices']['shape'])} int64 in [0, {notes['signature']['codebook_size'] - 1}]",
        f"checked  on {check['images']:,} images ({check['source']}) in {len(check['shapes'])} shapes: "
        f"{same:,} of {check['indices']:,} indices equal, decoded values within {error:.1e}",
    ]
    if check["differing"]:
        lines.append(
            f"         {check['differing']:,} indices differ, all between codes that tie to rounding"
        )
    return lines


def _shape(entries: Sequence[str | int]) -> str:
    return f"({', '.join(map(str, entries))})"

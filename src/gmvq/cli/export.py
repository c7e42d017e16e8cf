"""``gmvq export``: a tokenizer as two graphs that run without this package, or as a page that runs them; checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import option, parser_of, positive, say, tell
from .loaded import add_checkpoint, add_data_options, data_if_here, list_skipped, load

_ORT = (
    "the npm package of onnxruntime-web 1.30.0: the file that npm pack onnxruntime-web@1.30.0 fetches (33 MB), or the "
    "address https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz, from which it is then fetched"
)
_HOW_TO_WEB = f"--web and --ort go together; --ort is {_ORT}"


def run(argv: Sequence[str]) -> int:
    """Export; return 0, or 1 if an item could not be read."""
    options = _parser().parse_args(list(argv))
    out = Path(options.web or options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--{'web' if options.web else 'out'} is a folder, but {out} is a file")
    if bool(options.web) != bool(options.ort):
        raise ValueError(_HOW_TO_WEB)
    if options.web and options.format != "onnx":
        raise ValueError(f"--web runs ONNX files, got --format {options.format}")
    loaded = load(options)
    # Random images where there is no data.
    data = data_if_here(options, loaded, "compared on random images", "compare on yours")
    checked: dict[str, Any] = {"images": None, "source": data.description if data else ""}
    if data is not None:
        from ..evaluation.batches import image_batches
        from ..models.interface import device_of

        sizes = {"batch_size": options.batch_size, "limit": options.limit}
        checked["images"] = image_batches(data, device=device_of(loaded.model), **sizes)
    if options.web:
        from ..app.web_page import write_web_page

        notes = write_web_page(loaded.model, out, options.ort, **checked)
        written = f"{out}; to see it: python -m http.server --directory {out}, and open http://localhost:8000"
    else:
        from ..export import FORMATS, export_model

        if options.format == "aoti":
            say("compiling, which takes a minute")
        notes = export_model(loaded.model, out, options.format, opset=options.opset, **checked)
        written = ", ".join(str(out / name) for name in (*FORMATS[options.format], "export.json"))
    tell("\n".join(_lines(notes)))
    say(f"written: {written}")
    return list_skipped(out, options, loaded, data)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "export",
        "Write a tokenizer as two graphs, images to indices and indices to images, for any batch and size, after "
        "comparing them with the model.",
    )
    add_checkpoint(parser)
    text = "torch-export: programs for torch.export.load; aoti: compiled for the CPU of this machine"
    option(parser, "--format", text, default="onnx", choices=("onnx", "torch-export", "aoti"))
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", metavar="DIR", help="folder of the two files and export.json")
    text = "folder of a page that runs the tokenizer in the browser, behind any server of static files; needs --ort"
    place.add_argument("--web", metavar="DIR", help=text)
    option(parser, "--ort", f"for --web: {_ORT}", metavar="FILE")
    option(parser, "--opset", "operator set of ONNX", positive, 18)
    add_data_options(parser, default="what the model was trained on, if it is here")
    option(parser, "--limit", "compare on so many images at most", positive, 1024)
    parser.set_defaults(device="cpu")
    return parser


def _lines(notes: dict[str, Any]) -> list[str]:
    check, signature = notes["check"], notes["signature"]
    same, error = check["indices"] - check["differing"], check["largest_image_difference"]
    images, indices = (f"({', '.join(map(str, notes[name]['shape']))})" for name in ("images", "indices"))
    sizes = signature.get("codebook_sizes")
    levels = f"; K of each code: {', '.join(map(str, sizes))}" if sizes else ""
    lines = [
        f"images   {images} float32 in [0, 1]; {notes['sizes']}",
        f"indices  {indices} int64 in [0, {signature['codebook_size'] - 1}]{levels}",
        f"checked  on {check['images']:,} images ({check['source']}) in {len(check['shapes'])} shapes: "
        f"{same:,} of {check['indices']:,} indices equal, decoded values within {error:.1e}",
    ]
    if check["differing"]:
        lines.append(
            f"         {check['differing']:,} indices differ, all between codes that tie to rounding"
        )
    return lines

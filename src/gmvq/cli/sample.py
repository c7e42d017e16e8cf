"""``gmvq sample``: images or signals drawn from a prior over tokens, or from the mixture alone, as files."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import require
from ..files import write_text
from .common import Parser, load, open_data, positive, say

if TYPE_CHECKING:
    from torch import Tensor

    from ..prior import TokenPrior, TokenSpec
    from .common import Loaded

#: In the place of PRIOR: codes drawn from the mixture's weights, each position by itself.
MIXTURE = "mixture"
#: What only a prior understands.
_OF_PRIORS = {"label": None, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 0.0, "steps": 12}
_LEAST = 16  # images: ``evaluation.generation.MIN_IMAGES``


def run(argv: Sequence[str]) -> int:
    """Sample; return the exit code."""
    options = _parser().parse_args(list(argv))
    require("transformers", "prior")
    out = Path(options.out).expanduser()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} is not empty, and nothing is overwritten; give --out a new folder")
    if options.inception and not options.fid:
        raise ValueError("--inception gives the features of --fid; add --fid")
    if options.fid and options.n < _LEAST:
        raise ValueError(f"--fid needs some thousands of images, and {_LEAST} at least; got --n {options.n}")
    if options.prior == MIXTURE:
        loaded, indices = _from_mixture(options)
    else:
        loaded, indices = _from_prior(options)
    if options.fid and loaded.spatial_dims != 2:
        raise ValueError("--fid compares pictures, and the model is of signals; leave it out")
    from ..prior import decode

    images = decode(loaded.model, indices, noise=options.noise, seed=options.seed).clamp(0, 1)
    _write(out, images, indices, loaded, options)
    print(f"{len(images):,} {'images' if loaded.scale is None else 'signals'}: {out}")
    if options.fid:
        _measure(out, images, loaded, options)
    return 0


def _from_prior(options: argparse.Namespace) -> tuple[Loaded, Tensor]:
    from ..prior import Filters
    from ..prior.opening import open_prior

    filters = Filters(options.temperature, options.top_k, options.top_p, options.guidance)
    prior, notes = open_prior(options.prior)
    tokens = notes.get("tokens") or {}
    options.checkpoint = options.checkpoint or notes.get("tokenizer")
    if options.checkpoint is None:
        raise ValueError("the prior does not say where its tokenizer lies; give it: gmvq sample PRIOR CKPT")
    loaded = load(options)
    expected = tokens.get("tokenizer_sha256") or notes.get("tokenizer_sha256")
    check_tokenizer(prior.spec, loaded, expected, str(options.checkpoint))
    prior.to(next(loaded.model.parameters()).device)
    labels = _labels(options, prior)
    indices = prior.sample(
        options.n,
        labels=labels,
        filters=filters,
        seed=options.seed,
        batch_size=options.batch_size,
        steps=options.steps,
    )
    return loaded, indices


def check_tokenizer(spec: TokenSpec, loaded: Loaded, sha256: str | None, where: str) -> None:
    """Compare a tokenizer with the tokens that a prior was trained on.

    Raises:
        ValueError: it is another one.
    """
    from ..models.digest import model_digest

    digest = model_digest(loaded.model).removeprefix("sha256:")
    if sha256 and digest != sha256:
        raise ValueError(
            f"{where} is not the tokenizer that this prior was trained with: expected sha256 {sha256[:16]}, got "
            f"{digest[:16]}; give the checkpoint as it was when gmvq encode ran"
        )
    quantizer = loaded.model.quantizer
    codes = getattr(quantizer, "index_shape", ())
    axes = len(spec.shape) - len(codes)
    if spec.codebook_size != quantizer.codebook_size or spec.levels != (math.prod(codes) if codes else 1):
        raise ValueError(
            f"{where} has {math.prod(codes)} code(s) of {quantizer.codebook_size} for each position, and the prior "
            f"draws {spec.levels} of {spec.codebook_size}; give the tokenizer that it was trained with"
        )
    if axes != loaded.spatial_dims:
        raise ValueError(f"{where} has {loaded.spatial_dims} axes of positions, and the prior draws {axes}")


def _from_mixture(options: argparse.Namespace) -> tuple[Loaded, Tensor]:
    from ..prior import mixture_indices

    if options.checkpoint is None:
        raise ValueError("gmvq sample mixture needs the tokenizer: gmvq sample mixture CKPT")
    given = [f"--{name}" for name, default in _OF_PRIORS.items() if getattr(options, name) != default]
    if given:
        raise ValueError(
            f"the mixture by itself knows no {', '.join(given)}: these are of priors; leave them out"
        )
    loaded = load(options)
    size = options.size or (loaded.notes.get("data") or {}).get("size")
    if size is None:
        raise ValueError("the tokenizer does not say how large its images were; give --size PIXELS")
    shape = (size // loaded.downsample,) * loaded.spatial_dims
    return loaded, mixture_indices(loaded.model, options.n, shape, seed=options.seed)


def _labels(options: argparse.Namespace, prior: TokenPrior) -> Tensor | None:
    """--label 3, or several, which take turns; for a prior with labels and none given: all in turn."""
    import torch

    chosen = options.label or (list(range(prior.spec.labels)) if options.guidance else [])
    if options.guidance and not prior.spec.labels:
        raise ValueError("--guidance needs labels, and this prior was trained without")
    if not chosen:
        return None
    return torch.tensor([chosen[i % len(chosen)] for i in range(options.n)])


def _measure(out: Path, images: Tensor, loaded: Loaded, options: argparse.Namespace) -> None:
    """FID and its like against the test images that the tokenizer's training set aside, also as metrics.json."""
    from ..evaluation.generation import features, format_generation, generation_metrics
    from ..evaluation.inception import extractor_name, open_extractor

    real = open_data(argparse.Namespace(data=None, split="test", size=None, column=None), loaded)
    extractor = open_extractor(options.inception)
    found = generation_metrics(
        features(real, extractor), features(images, extractor), extractor_name=extractor_name(extractor)
    )
    say(f"against {real.description}")
    print(format_generation(found))
    write_text(out / "metrics.json", json.dumps(found.to_dict(), indent=2) + "\n")


def _write(out: Path, images: Tensor, indices: Tensor, loaded: Loaded, options: argparse.Namespace) -> None:
    """Write a file for each image or signal, grid.png of images, and the command with its tokens as samples.json."""
    import numpy as np

    from ..evaluation.pictures import save_png, to_picture
    from ..tokens import DecodedBatch, write_images, write_signals

    count = len(images)
    batch = DecodedBatch(np.arange(count), [""] * count, [None] * count, "samples", images)
    if loaded.scale is not None:
        write_signals([batch], out, loaded.scale)
    else:
        write_images([batch], out)
        columns = options.columns or math.ceil(math.sqrt(min(count, 256)))
        save_png(out / "grid.png", to_picture(grid(images[:256], columns)))
    record: dict[str, Any] = {**vars(options), "tokens": indices.tolist()}
    write_text(out / "samples.json", json.dumps(record) + "\n")


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) side by side in rows of ``columns``, on white -> (C, H', W')."""
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    sheet = images.new_ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="gmvq sample",
        description="Draw images: tokens from a prior, decoded by the tokenizer they belong to.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "prior",
        metavar="PRIOR",
        help="a run of gmvq prior fit, a saved prior, owner/name on the Hub; or the word 'mixture': codes drawn from "
        "the mixture's weights, each position by itself (the floor)",
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", nargs="?", help="the tokenizer; default: the place known to the prior"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="a new folder for grid.png and one PNG per image (of signals: WAV or .npy files)",
    )
    parser.add_argument("--n", type=positive, default=64, metavar="N", help="number of images (default: 64)")
    parser.add_argument(
        "--label",
        type=int,
        nargs="+",
        metavar="L",
        help="class label; several take turns (default: no label)",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="below 1: safer, above 1: wilder; 0: the mode"
    )
    parser.add_argument(
        "--top_k", type=int, default=0, metavar="K", help="only the K most probable codes; 0: all"
    )
    parser.add_argument(
        "--top_p", type=float, default=1.0, metavar="P", help="only the codes that make up P of the mass"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=0.0,
        metavar="W",
        help="how much to insist on the label (default: 0)",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="S",
        help="draw latents around the codewords: S = 1 is the mixture's own density; 0: the codewords (default)",
    )
    parser.add_argument("--steps", type=positive, default=12, help="of a masked prior (default: 12)")
    parser.add_argument(
        "--fid",
        action="store_true",
        help="also FID, KID, precision and recall against the test images, with intervals; give --n some thousands",
    )
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="weights of the standard Inception network for --fid, as in gmvq evaluate; default: EfficientNet-Lite0",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same images (default: 0)")
    parser.add_argument("--batch_size", type=positive, default=256, help="images at a time (default: 256)")
    parser.add_argument(
        "--size", type=positive, help="of the mixture's images, in pixels; default: that of training"
    )
    parser.add_argument("--columns", type=positive, help="of the grid; default: a square")
    parser.add_argument(
        "--device", help="where to compute, such as cpu or cuda; default: cuda if there is one"
    )
    return parser

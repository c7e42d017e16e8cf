"""``gmvq sample``: images or signals drawn from a prior over tokens, or from the mixture alone, as files."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import require
from ..files import write_json, write_text
from .common import add_device, option, parser_of, positive, say, seed, tell
from .loaded import add_checkpoint, add_fid_options, check_fid, list_skipped, load, open_data
from .unfinished import new_results

if TYPE_CHECKING:
    from torch import Tensor

    from ..prior import TokenPrior, TokenSpec
    from .loaded import Loaded

#: In the place of PRIOR: codes drawn from the mixture's weights, each position by itself.
MIXTURE = "mixture"
#: What only a prior understands.
_OF_PRIORS = {"label": None, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 0.0, "steps": 12}


def run(argv: Sequence[str]) -> int:
    """Sample; return 0, or 1 if a test image of --fid could not be read."""
    options = _parser().parse_args(list(argv))
    require("transformers", "prior")
    check_fid(options)
    from ..evaluation.generation import MIN_IMAGES

    if options.fid and options.n < MIN_IMAGES:
        raise ValueError(
            f"--fid needs some thousands of images, and {MIN_IMAGES} at least; got --n {options.n}"
        )
    out = Path(options.out).expanduser()
    with new_results(out, "sample", options, {}):
        if options.prior == MIXTURE:
            loaded, indices = _from_mixture(options)
        else:
            loaded, indices = _from_prior(options)
        check_fid(options, loaded)
        real = None
        if options.fid:
            # An item is a whole picture, like the rows that the prior learned.
            as_trained = argparse.Namespace(data=None, split="test", size=None, column=None, strict=False)
            real = open_data(as_trained, loaded, tiles=False)
        from ..prior import decode

        images = decode(loaded.model, indices, noise=options.noise, seed=options.seed).clamp(0, 1)
        _write(out, images, indices, loaded, options)
        tell(f"{len(images):,} {'images' if loaded.scale is None else 'signals'}: {out}")
        return 0 if real is None else _measure(out, images, real, loaded, options)


def _from_prior(options: argparse.Namespace) -> tuple[Loaded, Tensor]:
    from ..prior import Filters
    from ..prior.opening import open_prior
    from ..training.notes import place_here

    filters = Filters(options.temperature, options.top_k, options.top_p, options.guidance)
    prior, notes = open_prior(options.prior)
    hint, known = "give the tokenizer: gmvq sample PRIOR CKPT", notes.get("tokenizer")
    if options.checkpoint is None:
        if known is None:
            raise ValueError(f"the prior does not say where its tokenizer lies; {hint}")
        options.checkpoint = place_here(known, "the prior", hint)
    loaded = load(options)
    check_tokenizer(prior.spec, notes, loaded, str(options.checkpoint))
    prior.to(next(loaded.model.parameters()).device)
    indices = prior.sample(
        options.n,
        labels=_labels(options, prior),
        filters=filters,
        seed=options.seed,
        batch_size=options.batch_size,
        steps=options.steps,
    )
    return loaded, indices


def check_tokenizer(spec: TokenSpec, notes: dict[str, Any], loaded: Loaded, where: str) -> None:
    """Compare a tokenizer with the tokens that a prior was trained on."""
    from ..models.interface import code_sizes, sizes_text
    from ..tokens.manifest import digest_of

    sha256 = (notes.get("tokens") or {}).get("tokenizer_sha256") or notes.get("tokenizer_sha256")
    digest, quantizer = digest_of(loaded.model), loaded.model.quantizer
    if sha256 and digest != sha256:
        raise ValueError(
            f"{where} is not the tokenizer that this prior was trained with: expected sha256 {sha256[:16]}, got "
            f"{digest[:16]}; give the checkpoint as it was when gmvq encode ran"
        )
    axes = len(spec.shape) - len(getattr(quantizer, "index_shape", ()))
    sizes = code_sizes(quantizer)
    if spec.sizes != sizes:
        raise ValueError(
            f"{where} has {len(sizes)} code(s) of {sizes_text(sizes)} for each position, and the prior draws "
            f"{spec.levels} of {sizes_text(spec.sizes)}; give the tokenizer that it was trained with"
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
    size = options.size or loaded.data.get("size")
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


def _measure(out: Path, images: Tensor, real: Any, loaded: Loaded, options: argparse.Namespace) -> int:
    """FID and its like against the test images that the tokenizer's training set aside, also as metrics.json.

    Returns the exit code: 1 if some of these could not be read.
    """
    from ..evaluation.extractors import extractor_name, open_extractor
    from ..evaluation.generation import features, format_generation, generation_metrics

    extractor = open_extractor(options.inception)
    found = generation_metrics(
        features(real, extractor), features(images, extractor), extractor_name=extractor_name(extractor)
    )
    say(f"against {real.description}")
    tell(format_generation(found))
    write_json(out / "metrics.json", found.to_dict())
    return list_skipped(out, argparse.Namespace(data=None), loaded, real)


def _write(out: Path, images: Tensor, indices: Tensor, loaded: Loaded, options: argparse.Namespace) -> None:
    """Write a file for each image or signal, grid.png of images, and the command with its tokens as samples.json."""
    import numpy as np

    from ..evaluation.pictures import save_png, sheet, to_picture
    from ..tokens import DecodedBatch, write_images, write_signals

    count = len(images)
    batch = DecodedBatch(np.arange(count), [""] * count, [None] * count, "samples", images)
    if loaded.scale is not None:
        write_signals([batch], out, loaded.scale, replace=True)
    else:
        write_images([batch], out, replace=True)
        columns = options.columns or math.ceil(math.sqrt(min(count, 256)))
        shown = [to_picture(image) for image in images[:256]]
        save_png(out / "grid.png", sheet(shown, columns, gap=2, border=False))
    record: dict[str, Any] = {**vars(options), "tokens": indices.tolist()}
    write_text(out / "samples.json", json.dumps(record) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("sample", "Draw images: tokens from a prior, decoded by the tokenizer they belong to.")
    text = (
        "a run of gmvq prior fit, a saved prior, builtin:NAME, owner/name on the Hub; or the word 'mixture': codes "
        "drawn from the mixture's weights, each position by itself (the floor)"
    )
    parser.add_argument("prior", metavar="PRIOR", help=text)
    add_checkpoint(parser, nargs="?", help="the tokenizer; default: the place known to the prior")
    text = "a new folder for grid.png and one PNG per image (of signals: WAV or .npy files)"
    option(parser, "--out", text, metavar="DIR", required=True)
    option(parser, "--n", "number of images", positive, 64, metavar="N")
    option(
        parser, "--label", "class label; several take turns (default: no label)", int, nargs="+", metavar="L"
    )
    option(parser, "--temperature", "below 1: safer, above 1: wilder; 0: the mode", float, 1.0)
    option(parser, "--top_k", "only the K most probable codes; 0: all", int, 0, metavar="K")
    option(parser, "--top_p", "only the codes that make up P of the mass", float, 1.0, metavar="P")
    option(parser, "--guidance", "how much to insist on the label", float, 0.0, metavar="W")
    text = "draw latents around the codewords: S = 1 is the mixture's own density; 0: the codewords"
    option(parser, "--noise", text, float, 0.0, metavar="S")
    option(parser, "--steps", "of a masked prior", positive, 12)
    add_fid_options(parser, "FID, KID, precision and recall against the test images")
    option(parser, "--seed", "same seed, same images", seed, 0)
    option(parser, "--batch_size", "images at a time", positive, 256)
    option(parser, "--size", "of the mixture's images, in pixels; default: that of training", positive)
    option(parser, "--columns", "of the grid; default: a square", positive)
    add_device(parser)
    return parser

"""``gmvq encode``: a set of images to shards of tokens; the same command goes on with a run that was stopped."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress
from .common import Parser, option, positive, say, switch, tell, tell_skipped
from .loaded import add_data_options, add_spending, data_recipe, load, parser_for_model

if TYPE_CHECKING:
    from ..tokens import EncodeResult


def run(argv: Sequence[str]) -> int:
    """Encode; return 0, 1 if an item could not be read, or 130 if interrupted."""
    options = _parser().parse_args(list(argv))
    loaded = load(options)

    from ..tokens import encode_dataset

    recipe = data_recipe(options, loaded)
    try:
        with Progress(quiet=options.quiet) as progress:
            result = encode_dataset(
                loaded.model,
                recipe,
                options.out,
                batch_size=options.batch_size,
                rows_per_shard=options.rows_per_shard,
                log_variance=options.log_variance,
                **loaded.spend,
                workers=options.workers,
                engine=options.engine,
                ray_address=options.ray_address,
                checkpoint_path=options.checkpoint,
                strict=options.strict,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"\nstopped; complete shards are kept. Go on with: {shlex.join(['gmvq', 'encode', *argv])}")
        return 130
    return _report(options, result)


def _parser() -> Parser:
    parser = parser_for_model(
        "encode",
        "Encode a set of images or signals to Parquet shards of tokens. A run that was stopped or killed goes on where "
        "it was when the same command is given again.",
    )
    option(parser, "--out", "folder of the shards and manifest.json", metavar="DIR", required=True)
    add_data_options(parser, default="what the model was trained on", split="all")
    option(parser, "--rows_per_shard", "images per shard, held in memory", positive, 8192)
    switch(parser, "--log_variance", "store how unsure each code is, too")
    add_spending(parser)
    option(
        parser, "--workers", "processes that decode images ahead; with ray: encode", _count, 0, metavar="N"
    )
    text = "ray: encode on the machines of a Ray cluster"
    option(parser, "--engine", text, default="local", choices=("local", "ray"))
    option(parser, "--ray_address", "the Ray cluster, as for ray.init; default: one on this machine")
    switch(parser, "--quiet", "show no progress")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _report(options: argparse.Namespace, result: EncodeResult) -> int:
    manifest = result.manifest
    for note in result.notes:
        say(note)
    if not result.encoded:
        say(f"{result.folder} is complete already; nothing was done")
    for split in manifest.splits:
        tell(f"{split.name:<12}{split.images:>10,} images  {split.description}")
    shape = " x ".join(map(str, manifest.indices.shape))
    size = sum(shard.bytes for shard in manifest.shards)
    tell(
        f"{manifest.rows:,} rows of {shape} codes of {manifest.indices.codes}, {manifest.shard_count} "
        f"shard{'s' if manifest.shard_count > 1 else ''}, "
        f"{size / 1e6:,.1f} MB: {result.folder}"
    )
    for one in manifest.skipped[:10]:
        say(f"no row: {one.name} (id {one.id}): {one.reason}")
    say(f"check them with: {shlex.join(['gmvq', 'tokens', 'verify', str(Path(options.out))])}")
    return tell_skipped(result.folder, result.skipped)

"""``gmvq decode``: tokens back to images (PNG files, or a Parquet table), or to signals (WAV or .npy files)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from ..files import check_space
from ..progress import Progress
from .common import add_device, option, parser_of, positive, say, switch, tell
from .loaded import load
from .unfinished import new_results


def run(argv: Sequence[str]) -> int:
    """Decode; return the exit code."""
    options = _parser().parse_args(list(argv))

    from ..tokens import decode_tokens, write_images, write_signals
    from ..tokens.decode import checkpoint_of
    from ..tokens.folder import open_run
    from ..tokens.writing import check_target

    folder, manifest = open_run(options.dir)
    signals = len(manifest.image_shape) == 2
    out = check_target(options.out, signals=signals, replace=True)
    options.checkpoint = options.checkpoint or checkpoint_of(manifest)
    loaded = load(options)
    batches = decode_tokens(folder, loaded.model, split=options.split, limit=options.limit)
    total = sum(shard.rows for shard in manifest.shards if options.split in (None, shard.split))
    total = min(total, options.limit or total)
    # Samples of sound take two bytes, PNG of pictures hardly less than a twentieth of its pixels.
    values = total * math.prod(manifest.image_shape)
    check_space(options.out, 2 * values if signals else values // 20, "what is decoded")
    with (
        new_results(out, "decode", options, {"tokens": manifest.fingerprint}),
        Progress(quiet=options.quiet) as show,
    ):
        show(0, total)
        more: dict[str, Any] = {"replace": True, "progress": lambda done: show(done, total)}
        if loaded.scale is not None:
            count = write_signals(batches, out, loaded.scale, **more)
        else:
            count = write_images(batches, out, **more)
    tell(f"{count:,} {'windows of signals' if signals else 'images'}: {options.out}")
    if manifest.skipped and options.split is None and options.limit is None:
        say(f"{len(manifest.skipped)} images of the data have no tokens, as they could not be decoded")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("decode", "Decode a folder of tokens to images or signals.")
    parser.add_argument("dir", metavar="DIR", help="folder written by gmvq encode")
    text = (
        "a new folder for PNG files (of signals: WAV or .npy files, one for each window), or the name of a .parquet "
        "file (of signals: one .npy file of all windows)"
    )
    option(parser, "--out", text, metavar="OUT", required=True)
    text = "the model, where it is no longer at the place in the manifest"
    option(parser, "--checkpoint", text, metavar="CKPT")
    option(parser, "--split", "decode this split only")
    option(parser, "--limit", "decode only the first N images", positive, metavar="N")
    add_device(parser)
    switch(parser, "--quiet", "show no progress")
    return parser

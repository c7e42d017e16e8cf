"""``gmvq push``: a trained tokenizer on the Hugging Face Hub, with a model card; or in a folder, to look at first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .common import add_license, option, parser_of, say, switch, tell
from .loaded import add_checkpoint, load


def run(argv: Sequence[str]) -> int:
    """Push; return the exit code."""
    options = _parser().parse_args(list(argv))
    loaded = load(options)
    if not options.license:
        say("no licence is stated; --license apache-2.0 (or another of the Hub's) states one for the weights")
    if options.dry_run:
        folder = Path(options.dry_run)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"--dry_run takes a new or empty folder, but {folder} is neither")
        loaded.model.save_repository(folder, options.name, loaded.notes, options.license)
        tell(f"nothing was uploaded; {options.name} would hold what is now in {folder}:")
        for file in sorted(folder.iterdir()):
            tell(f"  {file.name:<20}{file.stat().st_size:>14,} bytes")
        return 0
    address = loaded.model.push_to_hub(
        options.name,
        private=options.private,
        commit_message=options.message,
        metadata=loaded.notes,
        license=options.license,
    )
    tell(f"pushed: {address}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "push",
        "Publish a tokenizer on the Hugging Face Hub: weights, configuration, and a model card with its figures. The "
        "token is that of `hf auth login`, or HF_TOKEN.",
    )
    add_checkpoint(parser, help="a run folder, a saved model folder or a .ckpt file")
    parser.add_argument("name", metavar="OWNER/NAME", type=_name, help="the repository; created if needed")
    switch(parser, "--private", "make a new repository private")
    add_license(parser)
    option(parser, "--message", "message of the commit", default="Upload gmvq model")
    text = "write the files to this folder and upload nothing; works offline"
    option(parser, "--dry_run", text, metavar="DIR")
    parser.set_defaults(device="cpu")
    return parser


def _name(text: str) -> str:
    from ..models.hub import is_hub_name

    if not is_hub_name(text):
        raise argparse.ArgumentTypeError(f"expected OWNER/NAME, got {text!r}")
    return text

"""The options that say which data a command uses: their one place, but for ``gmvq fit``, which has ``--data.path``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reading import is_remote
from .common import Loaded, Parser, add_strict, option, positive, say, tell_skipped

if TYPE_CHECKING:
    from ..data import DataRecipe, TrainingSet


def add_data_options(parser: Parser, *, default: str, split: str | None = None) -> None:
    """Add the options that say which images or signals to use."""
    text = f"images or signals, as --data.path of gmvq fit; default: {default}"
    option(parser, "--data", text, metavar="PATH")
    by_data = (
        "test; for other images than those of training, all that no folder or file name sets aside"
        if split is None
        else "all, each row with the name of its split"
    )
    splits = ("train", "validation", "test", "all")
    parser.add_argument(
        "--split", choices=splits, default=split, help=f"part of the data (default: {by_data})"
    )
    option(parser, "--size", "height and width in pixels, or samples; default: that of training", positive)
    text = "column of a table with the images, where its name is not a usual one; columns of a .csv file"
    option(parser, "--column", text)
    option(parser, "--batch_size", "images at a time", positive, 64)
    add_strict(parser)


def data_recipe(options: argparse.Namespace, loaded: Loaded, *, tiles: bool = False) -> DataRecipe:
    """Which data a command line means; what it leaves open is as in training.

    ``tiles`` takes large pictures in tiles, as the evaluation after training does, and not each as one item.
    """
    from ..data import DataRecipe

    trained: dict[str, Any] = loaded.notes.get("data") or {}
    path = options.data or trained.get("path")
    if not path:
        raise ValueError("the model does not say what it was trained on; give --data PATH")
    if not options.data and is_remote(path):
        raise ValueError(
            f"the model was trained on {path}, and nothing is downloaded unasked; give --data {path}, or another"
        )
    same = path == trained.get("path")
    return DataRecipe(
        path=path,
        split=options.split or ("all" if not same and _is_undivided(path) else "test"),
        size=options.size or trained.get("size") or 8 * loaded.downsample,
        channels=loaded.channels,
        column=options.column or (trained.get("column") if same else None),
        divided=same,
        scale=loaded.scale,
        crops=(trained.get("crops", "whole") if same else "auto") if tiles else "whole",
    )


def open_data(options: argparse.Namespace, loaded: Loaded, *, tiles: bool = True) -> TrainingSet:
    """Open the data of a command line as one set; ``options.split`` then says which part it is."""
    recipe = data_recipe(options, loaded, tiles=tiles)
    options.split = recipe.split
    data = recipe.open_one(recipe.split)
    data.watch.strict = options.strict
    data.watch.look(data.skipped)
    return data


def data_if_here(
    options: argparse.Namespace, loaded: Loaded, otherwise: str, purpose: str
) -> TrainingSet | None:
    """The images of --data, or those of training where they are on this machine; else say what happens otherwise."""
    from ..data.skipping import SkippedItemError

    trained = str(loaded.data.get("path") or "")
    if not options.data and (not trained or is_remote(trained)):  # no download that nobody asked for
        say(f"{otherwise}; give --data PATH to {purpose}")
        return None
    try:
        return open_data(options, loaded)
    except (OSError, ValueError, ImportError) as error:
        if options.data or isinstance(error, SkippedItemError):
            raise
        say(f"{otherwise}: {error}")
        return None


def list_skipped(target: Path, options: argparse.Namespace, loaded: Loaded, data: TrainingSet | None) -> int:
    """List what could not be read of the data beside the results; return the exit code: 1 if there is any."""
    from ..data.skipping import write_skipped

    source = options.data or str(loaded.data.get("path") or "")
    return tell_skipped(target, write_skipped(target, source, () if data is None else data.skipped))


def _is_undivided(path: str) -> bool:
    """Whether ``path`` is a file or folder that names no test split of its own."""
    place = Path(path).expanduser()
    if place.is_dir():
        return not any(entry.name.lower().startswith(("test", "t10k")) for entry in place.iterdir())
    return place.is_file()

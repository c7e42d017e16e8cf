"""What the commands around a trained model share: the model with its notes, and the options that say which data to use.

``gmvq fit`` has ``--data.path`` and the like in their place.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reading import is_remote
from .common import (
    Parser,
    add_device,
    add_strict,
    chosen_device,
    option,
    parser_of,
    positive,
    say,
    switch,
    tell_skipped,
)  # fmt: skip

if TYPE_CHECKING:
    from ..data import DataRecipe, SignalScale, TrainingSet
    from ..models import VQAutoencoder


@dataclass(frozen=True)
class Loaded:
    """A model on its device, what is known about its training, and where it came from (see ``open_model``)."""

    model: VQAutoencoder
    notes: dict[str, Any]
    path: Path | None
    spend: dict[str, Any] = field(default_factory=dict)  # --budget or --distortion, if given

    @property
    def data(self) -> dict[str, Any]:
        """Of the notes: what it was trained on; {} where that is not known."""
        return self.notes.get("data") or {}

    @property
    def channels(self) -> int:
        return self._networks["channels"]

    @property
    def downsample(self) -> int:
        return self._networks["downsample"]

    @property
    def spatial_dims(self) -> int:
        """2 for images, 1 for signals."""
        return self._networks["spatial_dims"]

    @property
    def scale(self) -> SignalScale | None:
        """The scale of the signals that the model was trained on; None for images."""
        from ..data import SignalScale

        if self.spatial_dims != 1:
            return None
        scale = SignalScale.from_settings(self.data)
        if scale is None:
            raise ValueError(
                "the model does not say on which scale its signals are; save it with "
                "metadata={'data': dataset.scale.to_settings()}"
            )
        return scale

    @property
    def folder(self) -> Path:
        """Where results go: the model's run folder, or the folder it lies in; of one of the Hub the current folder."""
        if self.path is None:
            return Path.cwd()
        folder = self.path if self.path.is_dir() else self.path.parent
        return folder.parent if folder.name in ("model", "checkpoints") else folder

    @property
    def _networks(self) -> dict[str, Any]:
        from ..models.interface import networks_of

        return networks_of(self.model)


def load(options: argparse.Namespace) -> Loaded:
    """Load the model of a command line."""
    from ..models.interface import spending
    from ..training.checkpoint import open_model

    opened = open_model(options.checkpoint, map_location=chosen_device(options.device))
    given = {name: getattr(options, name, None) for name in ("budget", "distortion")}
    return Loaded(*opened, spending(opened.model.quantizer, given))


def parser_for_model(command: str, description: str) -> Parser:
    """Return a parser with the arguments that every command on a trained model has."""
    parser = parser_of(command, description)
    add_checkpoint(parser)
    add_device(parser)
    return parser


def add_checkpoint(parser: Parser, **options: Any) -> None:
    """Add the argument that says which model."""
    text = "a run folder, a saved model folder, a .ckpt file, builtin:NAME, or owner/name on the Hugging Face Hub"
    parser.add_argument("checkpoint", metavar="CKPT", **{"help": text, **options})


def add_spending(parser: Parser) -> None:
    """Add what a model of ragged codes may spend on an image; ``load`` keeps it."""
    either = parser.add_mutually_exclusive_group()
    text = "the most codes of an image, for a model of ragged codes"
    either.add_argument("--budget", help=text, type=positive, metavar="N")
    text = "share codes where that adds at most this error, in units of log K nats, for each code saved"
    either.add_argument("--distortion", help=text, type=float, metavar="X")


def add_fid_options(parser: Parser, what: str) -> None:
    """Add --fid, which measures ``what``, and --inception."""
    switch(parser, "--fid", f"also {what}, with intervals; take some thousands of images")
    text = (
        "weights of the standard Inception network (pt_inception-2015-12-05-6726825d.pth) for --fid; needs "
        "torch-fidelity (default: the packaged EfficientNet-Lite0, whose figures compare with each other alone)"
    )
    option(parser, "--inception", text, metavar="FILE")


def check_fid(options: argparse.Namespace, loaded: Loaded | None = None) -> None:
    """Raise ValueError if --fid is asked for where it cannot be, or --inception without it."""
    if options.inception and not options.fid:
        raise ValueError("--inception gives the features of --fid; add --fid")
    if options.fid and loaded is not None and loaded.spatial_dims != 2:
        raise ValueError("--fid compares pictures, and the model is of signals; leave it out")


def add_data_options(parser: Parser, *, default: str, split: str | None = None) -> None:
    """Add the options that say which images or signals to use."""
    text = f"images or signals, as --data.path of gmvq fit; default: {default}"
    option(parser, "--data", text, metavar="PATH")
    by_data = "test; for other images than those of training, all that no folder or file name sets aside"
    by_data = "all, each row with the name of its split" if split else by_data
    splits, text = ("train", "validation", "test", "all"), f"part of the data (default: {by_data})"
    parser.add_argument("--split", choices=splits, default=split, help=text)
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

    trained = loaded.data
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

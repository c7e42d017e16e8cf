"""What the commands around a trained model share: their parser, the model with its notes, the data to use."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ..data import SignalScale, TrainingSet
    from ..models import VQAutoencoder


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ValueError, with one sentence, in place of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def parser_for_model(command: str, description: str) -> Parser:
    """Return a parser with the arguments that every command on a trained model has."""
    parser = Parser(prog=f"gmvq {command}", description=description, allow_abbrev=False)
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="a run folder, a saved model folder, a .ckpt file, or owner/name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--device", help="where to compute, such as cpu or cuda; default: cuda if there is one"
    )
    return parser


def add_data_options(parser: Parser, *, default: str) -> None:
    """Add the options that say which images to use; ``default`` explains what happens without --data."""
    parser.add_argument(
        "--data", metavar="PATH", help=f"images or signals, as --data.path of gmvq fit; default: {default}"
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="part of the data (default: test; for other images than those of training, all that no folder or file "
        "name sets aside)",
    )
    parser.add_argument(
        "--size", type=positive, help="height and width in pixels, or samples; default: that of training"
    )
    parser.add_argument(
        "--column",
        help="column of a table with the images, where its name is not a usual one; columns of a .csv file",
    )
    parser.add_argument("--batch_size", type=positive, default=64, help="images at a time (default: 64)")


def positive(text: str) -> int:
    """Parse a positive whole number."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return number


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and what is known about its training (see ``load_metadata``)."""

    model: VQAutoencoder
    notes: dict[str, Any]
    path: Path | None
    """The file or folder it came from; None for a model of the Hub."""

    @property
    def channels(self) -> int:
        return int(self._networks["channels"])

    @property
    def downsample(self) -> int:
        return int(self._networks["downsample"])

    @property
    def spatial_dims(self) -> int:
        """2 for images, 1 for signals."""
        return int(self._networks["spatial_dims"])

    @property
    def scale(self) -> SignalScale | None:
        """The scale of the signals that the model was trained on; None for images.

        Raises:
            ValueError: the model is of signals and does not say.
        """
        from ..data import SignalScale

        if self.spatial_dims != 1:
            return None
        scale = SignalScale.from_settings(self.notes.get("data") or {})
        if scale is None:
            raise ValueError(
                "the model does not say on which scale its signals are; save it with "
                "metadata={'data': dataset.scale.to_settings()}"
            )
        return scale

    @property
    def _networks(self) -> dict[str, Any]:
        config = getattr(self.model.encoder, "config", None)
        assert isinstance(config, dict)  # models of other networks do not load without them
        return config


def load(options: argparse.Namespace) -> Loaded:
    """Load the model of a command line."""
    import torch

    from ..training.checkpoint import find_model, load_metadata, load_model

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used here: {reason}") from error
    found = find_model(options.checkpoint)
    model = load_model(options.checkpoint, map_location=device)
    return Loaded(model, load_metadata(options.checkpoint), found if isinstance(found, Path) else None)


def open_data(options: argparse.Namespace, loaded: Loaded) -> TrainingSet:
    """Open the images or signals of a command line; what it leaves open is as in training.

    Raises:
        ValueError: neither the command line nor the model's metadata says which, or signals have another sample rate
            than those of training.
    """
    from ..data import SignalDataset, open_dataset
    from ..data.signals import check_sample_rate

    trained: dict[str, Any] = loaded.notes.get("data") or {}
    path = options.data or trained.get("path")
    if not path:
        raise ValueError("the model does not say what it was trained on; give --data PATH")
    same = path == trained.get("path")
    if options.split is None:
        options.split = "all" if not same and _is_undivided(path) else "test"
    everything = options.split == "all"
    scale = loaded.scale
    dataset = open_dataset(
        path,
        spatial_dims=loaded.spatial_dims,
        value_range=None if scale is None else (scale.low, scale.high),
        split="train" if everything else options.split,
        split_fractions=(0.0, 0.0) if everything else (0.1, 0.1),
        size=options.size or trained.get("size") or 8 * loaded.downsample,
        channels=loaded.channels,
        augment=False,
        column=options.column or (trained.get("column") if same else None),
    )
    if isinstance(dataset, SignalDataset) and scale is not None:
        check_sample_rate(dataset, scale.sample_rate)
    return dataset


def _is_undivided(path: str) -> bool:
    """Whether ``path`` is a file or folder that names no test split of its own."""
    place = Path(path).expanduser()
    if place.is_dir():
        return not any(entry.name.lower().startswith(("test", "t10k")) for entry in place.iterdir())
    return place.is_file()


def say(text: str) -> None:
    """Tell the user something that is no result, on standard error."""
    print(text, file=sys.stderr, flush=True)

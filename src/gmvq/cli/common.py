"""What the commands around a trained model share: their parser, the model with its notes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ..data import SignalScale
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


def say(text: str) -> None:
    """Tell the user something that is no result, on standard error."""
    print(text, file=sys.stderr, flush=True)

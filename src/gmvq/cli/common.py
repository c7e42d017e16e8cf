"""What the commands around a trained model share: their parser, the model with its notes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..screen import printable

if TYPE_CHECKING:
    import torch

    from ..data import SignalScale
    from ..models import VQAutoencoder


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ValueError, with one sentence, in place of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def parser_of(command: str, description: str) -> Parser:
    """Return the parser of a command."""
    return Parser(prog=f"gmvq {command}", description=description, allow_abbrev=False)


def parser_for_model(command: str, description: str) -> Parser:
    """Return a parser with the arguments that every command on a trained model has."""
    parser = parser_of(command, description)
    add_checkpoint(parser)
    add_device(parser)
    return parser


def option(
    parser: argparse.ArgumentParser, name: str, text: str, kind: Any = str, default: Any = None, **more: Any
) -> None:
    """Add an option with a value; its default, if it has one, ends its help."""
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(name, type=kind, default=default, help=text + shown, **more)


def switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add an option without a value."""
    parser.add_argument(name, action="store_true", help=text)


def add_checkpoint(parser: Parser, **options: Any) -> None:
    """Add the argument that says which model."""
    text = "a run folder, a saved model folder, a .ckpt file, builtin:NAME, or owner/name on the Hugging Face Hub"
    parser.add_argument("checkpoint", metavar="CKPT", **{"help": text, **options})


def add_device(parser: Parser) -> None:
    """Add the option that says where to compute."""
    option(parser, "--device", "where to compute, such as cpu or cuda; default: cuda if there is one")


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


def positive(text: str) -> int:
    """Parse a positive whole number."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return number


def seed(text: str) -> int:
    """Parse a seed: what torch takes as one, a whole number of 64 bits."""
    from ..errors import check_seed

    number = int(text)
    check_seed(number)
    return number


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
        config = getattr(self.model.encoder, "config", None)
        assert isinstance(config, dict)  # models of other networks do not load without them
        return config


def load(options: argparse.Namespace) -> Loaded:
    """Load the model of a command line."""
    from ..models.interface import spending
    from ..training.checkpoint import open_model

    opened = open_model(options.checkpoint, map_location=chosen_device(options.device))
    given = {name: getattr(options, name, None) for name in ("budget", "distortion")}
    return Loaded(opened.model, opened.notes, opened.path, spending(opened.model.quantizer, given))


def chosen_device(name: str | None, option: str = "--device") -> torch.device:
    """The device of an option: what was asked for, or cuda if there is one."""
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{option} {device} cannot be used here: {reason}") from error


def add_strict(parser: Parser) -> None:
    """Add the option that stops at the first bad item."""
    switch(parser, "--strict", "stop at the first item that cannot be read, in place of leaving it out")


def add_spending(parser: Parser) -> None:
    """Add what a model of ragged codes may spend on an image; ``load`` keeps it."""
    either = parser.add_mutually_exclusive_group()
    text = "the most codes of an image, for a model of ragged codes"
    either.add_argument("--budget", help=text, type=positive, metavar="N")
    text = "share codes where that adds at most this error, in units of log K nats, for each code saved"
    either.add_argument("--distortion", help=text, type=float, metavar="X")


def tell_skipped(out: Path, bad: int) -> int:
    """Say how many items were left out, as the last line; return the exit code: 1 if there are any."""
    if not bad:
        return 0
    from ..data.skipping import skipped_path

    say(f"{bad:,} item{'s' * (bad > 1)} could not be used; {skipped_path(out)} lists them with the reasons")
    return 1


def columns(rows: Iterable[tuple[str, object]], width: int = 20) -> str:
    """Labels and what belongs to them, a line each."""
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows)


def say(text: str) -> None:
    """Tell the user something that is no result, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Print a result, with names as a terminal can show them."""
    print(printable(text), flush=True)

"""The options of ``gmvq fit``: every argument of module, data and trainer, checked by jsonargparse."""

from __future__ import annotations

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from ..training import ImageDataModule, TokenizerModule
from ..training.choices import choice_defaults, register_choices
from ..training.trainer import TRAINER_DEFAULTS
from .training_run import add_run_options


def build_parser() -> LightningArgumentParser:
    """Return the parser of ``gmvq fit``."""
    register_choices()
    parser = LightningArgumentParser(
        prog="gmvq fit",
        usage="gmvq fit [--config FILE] [--OPTION VALUE ...]",
        description=(
            "Train a tokenizer on images or signals. Without options: the built-in photographs at 32 pixels, a tiny "
            "network, a few minutes on two CPU cores. Schedules are written as numbers or calls: 3, 'Cosine(1, 0)'."
        ),
        exit_on_error=False,
    )
    add_run_options(parser, TRAINER_DEFAULTS)
    parser.add_argument(
        "--keep_best",
        type=bool,
        default=False,
        help="Keep the checkpoint with the least validation MSE, too.",
    )
    parser.add_argument(
        "--bound_samples",
        type=int,
        default=0,
        help="Samples of the importance-weighted bound in the final evaluation; 0 leaves it out.",
    )
    parser.add_class_arguments(TokenizerModule, "model", skip={"autoencoder"}, sub_configs=True)
    parser.add_class_arguments(ImageDataModule, "data", sub_configs=True)
    parser.link_arguments("seed", "model.seed")
    parser.link_arguments("seed", "data.seed")
    parser.link_arguments("model.channels", "data.channels")
    parser.link_arguments("model.spatial_dims", "data.spatial_dims")
    parser.set_defaults(choice_defaults(TokenizerModule, "model"))
    return parser


def build_run(parser: LightningArgumentParser, config: Namespace) -> tuple[TokenizerModule, ImageDataModule]:
    """Build the module and the data that a parsed configuration describes.

    Raises:
        ValueError: an argument is out of range.
    """
    built = parser.instantiate_classes(config)
    return built["model"], built["data"]

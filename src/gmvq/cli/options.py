"""The options of commands that train: every argument of module, data and trainer, checked by jsonargparse."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from ..errors import import_or_tell, require
from ..quantizers.migrate import FORMER, migrate_part
from ..reading import read_text
from ..training import ImageDataModule, TokenizerModule
from ..training.choices import choice_defaults, register_choices
from ..training.loggers import parse_loggers
from ..training.trainer import TRAINER_DEFAULTS
from .config_files import NO_CLASSES, check_config_file, parsing_safely

#: Trainer arguments that ``gmvq fit`` sets itself, or that have no use in it.
OURS = {
    "barebones", "callbacks", "default_root_dir", "enable_autolog_hparams", "enable_checkpointing",
    "enable_model_summary", "inference_mode", "logger", "model_registry", "num_sanity_val_steps",
    "overfit_batches", "plugins", "reload_dataloaders_every_n_epochs", "use_distributed_sampler",
}  # fmt: skip

#: By its short name, or as ``{class_path: ..., init_args: ...}``.
_LOGGER = Literal["tensorboard", "wandb", "csv", "none"] | dict[str, Any]

#: Trainer arguments that may be objects in Python. Options and configurations name them only: the name of a class would
#: import its module, and a configuration may come from anybody.
_NAMED: dict[str, tuple[str | None, str]] = {
    "accelerator": ("auto", "cpu, gpu, tpu, mps, auto, or one that --allow_import registered."),
    "strategy": ("auto", "auto, ddp, fsdp, ..., or one that --allow_import registered."),
    "profiler": (None, "simple, advanced, pytorch or xla."),
}


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
    text = "Keep the checkpoint with the least validation MSE, too."
    parser.add_argument("--keep_best", type=bool, default=False, help=text)
    text = "Samples of the importance-weighted bound in the final evaluation; 0 leaves it out."
    parser.add_argument("--bound_samples", type=int, default=0, help=text)
    text = "Stop at the first image or recording that cannot be read, in place of leaving it out."
    parser.add_argument("--strict", type=bool, default=False, help=text)
    text = "Begin with networks and codebook of a trained tokenizer: a run, a model folder, a .ckpt, builtin:NAME or a "
    text += "Hub name; with new codes also of a diffusers AutoencoderKL or VQModel."
    parser.add_argument("--init_from", type=str | None, help=text)
    text = "Of --init_from: keep its codes (more or fewer by --model.codebook_size), or new ones from the new data."
    parser.add_argument("--init_codebook", type=Literal["keep", "new"], default="keep", help=text)
    text = "Parts that stand still, as in '[encoder, quantizer]'."
    parser.add_argument(
        "--freeze", type=list[Literal["encoder", "decoder", "quantizer"]], default=[], help=text
    )
    parser.add_class_arguments(TokenizerModule, "model", skip={"autoencoder"})
    parser.add_class_arguments(ImageDataModule, "data")
    parser.link_arguments("seed", "model.seed")
    parser.link_arguments("seed", "data.seed")
    parser.link_arguments("model.channels", "data.channels")
    parser.link_arguments("model.spatial_dims", "data.spatial_dims")
    parser.set_defaults(choice_defaults(TokenizerModule, "model"))
    return parser


def add_run_options(parser: LightningArgumentParser, defaults: dict[str, Any]) -> None:
    """Add what every run has: its name, folder, seed, checkpoint and loggers, and Lightning's trainer."""
    parser.add_argument("--config", "-c", action=ActionConfigFile, help="Read options from this YAML file.")
    parser.add_argument("--name", type=str | None, help="Name of the run: its folder is runs/NAME.")
    parser.add_argument("--out", type=str | None, help="Folder of the run, in place of runs/NAME.")
    text = "Seed of weights, noise, data order, augmentation."
    parser.add_argument("--seed", type=int, default=0, help=text)
    text = "Go on from this checkpoint; 'last' is the newest of the run; 'auto' the same, or begin if there is none."
    parser.add_argument("--ckpt_path", type=str | None, help=text)
    text = "Where figures and pictures go beside history.jsonl: one or several, as in '[tensorboard, wandb]'."
    parser.add_argument("--logger", type=_LOGGER | list[_LOGGER], default="tensorboard", help=text)
    text = "As --logger, in Lightning's words: true, TensorBoardLogger, {class_path: ..., init_args: {...}}, a list."
    kind = bool | str | dict[str, Any] | list[str | dict[str, Any]] | None
    parser.add_argument("--trainer.logger", type=kind, default=None, help=text)
    parser.add_argument("--save_every", type=int, default=200, help="Steps between two checkpoints.")
    text = (
        "Measure and keep a moving average of all weights, of this decay, such as 0.99; 0: the last weights."
    )
    parser.add_argument("--average", type=float, default=0.0, help=text)
    parser.add_class_arguments(Trainer, "trainer", skip={*OURS, *_NAMED}, instantiate=False)
    for option, (default, text) in _NAMED.items():
        kind = str if default else str | None
        parser.add_argument(f"--trainer.{option}", type=kind, default=default, help=text)
    parser.set_defaults({f"trainer.{key}": value for key, value in defaults.items()})


def parse_options(parser: LightningArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse a command line; what is wrong with it is said in one sentence."""
    argv = _import_allowed(argv)
    for name in _config_arguments(argv):
        # What is missing is left to the parser; a FIFO or device is refused.
        if Path(name).exists():
            check_config_file(Path(name))
    try:
        with parsing_safely():
            config = parser.parse_args([_current(value) for value in _spelled_out(argv)])
    except (argparse.ArgumentError, AttributeError, TypeError, KeyError, ValueError, RecursionError) as error:
        known = {action.dest for action in parser._actions} - {"help", "print_config"}
        raise ValueError(_explain(str(error), sorted(known))) from error
    if not isinstance(config.trainer, Namespace):
        raise ValueError(f"trainer: expected options such as max_steps, got {config.trainer!r}")
    logger = config.trainer.pop("logger")
    option = "logger" if logger is None else "trainer.logger"
    config.logger = parse_loggers(option, config.logger if logger is None else logger)
    texts = (*argv, *(read_text(name) for name in config_files(argv)))
    if config.trainer.max_epochs is not None and not any("max_steps" in text for text in texts):
        config.trainer.max_steps = -1  # who asks for epochs does not mean our default number of steps
    return config


def _import_allowed(argv: Sequence[str]) -> list[str]:
    """Import what ``--allow_import MODULE`` names on the command line, and return the other arguments.

    A module may register strategies and accelerators with Lightning, which options then name. In a configuration the
    option is unknown: only who types it decides whose code runs.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--allow_import", action="append", default=[])
    found, rest = parser.parse_known_args(list(argv))
    for name in found.allow_import:
        import_or_tell(name, "pip (or mend its name in --allow_import)")
    return rest


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """``--trainer.logger NAME --trainer.logger.ARGUMENT VALUE``, as the second would replace the first otherwise."""
    more = any(value.startswith("--trainer.logger.") for value in argv)
    whole, name = r"^--trainer\.logger(?==|$)", "--trainer.logger.class_path"
    return [re.sub(whole, name, value) if more else value for value in argv]


def _current(value: str) -> str:
    """An argument; for a config file with options of the quantizer that are gone, its text without them."""
    if Path(value).suffix not in (".yaml", ".yml") or not Path(value).is_file():
        return value
    check_config_file(Path(value))
    yaml = require("yaml", "train")
    try:
        config = yaml.safe_load(read_text(value))
    except (yaml.YAMLError, RecursionError):  # left to the parser
        return value
    found = config.get("model") if isinstance(config, dict) else None
    model: dict[str, Any] = found if isinstance(found, dict) else {}
    former = [name for name in FORMER if isinstance(model.get(name.lower()), dict)]
    if not any(FORMER[name].keys() & model[name.lower()].keys() for name in former):
        return value
    for name in former:
        part = migrate_part({"type": name, **model[name.lower()]})
        model[name.lower()] = {key: entry for key, entry in part.items() if key != "type"}
    return yaml.safe_dump(config)


def build_run(parser: LightningArgumentParser, config: Namespace) -> tuple[TokenizerModule, ImageDataModule]:
    """Build the module and the data that a parsed configuration describes."""
    built = parser.instantiate_classes(config)
    return built["model"], built["data"]


def _explain(message: str, known: Sequence[str]) -> str:
    """Shorten a message of jsonargparse, and name the option that was probably meant."""
    text = " ".join(message.split())
    unknown = re.search(r"unrecognized arguments: (.*)$", text)
    if unknown:
        names = [part.lstrip("-").split("=")[0] for part in unknown[1].split() if part.startswith("-")]
        if not names:
            return f"what is {unknown[1]!r}? Options begin with --, as in --model.codebook_size 1024"
        return "; ".join(_no_such(name, known) for name in names)
    unknown = re.search(r"[Kk]ey '([\w.]+)' is not expected|Option '([\w.]+)' is not accepted", text)
    if unknown:
        return _no_such(unknown[1] or unknown[2], known)
    unknown = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    if unknown:
        return _no_such(f"{unknown[1]}.{unknown[2]}", known)
    several = re.search(
        r'^Parser key "([\w.]+)": Does not validate .*?Subtypes: \[(.*?)\] Errors:.*Given value: (.*)$', text
    )
    if several:
        kinds = re.sub(r"typing\.Literal\[(.*?)\]|<class '(.*?)'>", r"\1\2", several[2])
        kinds = kinds.replace("dict[str, typing.Any]", "a mapping")
        kinds = kinds.replace("list[int]", "a list such as [256, 64]")
        kinds = re.sub(r"list\[typing\.Union\[.*?\]\]", "a list of these", kinds)
        return f"{several[1]}: expected one of {kinds}; got {several[3]}"
    text = re.sub(r'^Parser key "([\w.]+)": ', r"\1: ", text)
    if "class_path" in text and NO_CLASSES not in text:
        text += NO_CLASSES
    text = re.sub(r"Expected an? <class '([\w.]+)'>\. Got value: (.*)$", r"expected \1, got \2", text)
    text = re.sub(r"Expected an? typing\.Literal\[(.*?)\]\. Got value: (.*)$", r"expected \1; got \2", text)
    return re.sub(r"Not of type \w+: ", "", text)


def _no_such(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:
        leaf = name.rpartition(".")[2]
        near = [option for option in known if option.rpartition(".")[2] == leaf]
        near = sorted(near, key=lambda option: option.count("."))[:1]
    hint = f"; did you mean {near[0]}?" if near else "; gmvq fit --help lists the options"
    return f"there is no option {name!r}{hint}"


def config_files(argv: Sequence[str]) -> list[str]:
    """Return the config files named on a command line, in order."""
    return [name for name in _config_arguments(argv) if Path(name).suffix in (".yaml", ".yml", ".json")]


def _config_arguments(argv: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    return parser.parse_known_args(list(argv))[0].config

"""Parse the command line of a command that trains; what is wrong with it is said in one sentence."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from .config_files import check_config_file


def parse_options(parser: LightningArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse a command line; what is wrong with it is said in one sentence.

    Raises:
        ValueError: an unknown option (with the nearest known one), a bad value, a config file that is missing
            or is no YAML.
    """
    for name in _config_arguments(argv):
        if Path(name).is_file():
            check_config_file(Path(name))
    try:
        config = parser.parse_args(list(argv))
    except (argparse.ArgumentError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(_explain(str(error), _known_options(parser))) from error
    if not isinstance(config.trainer, Namespace):
        raise ValueError(f"trainer: expected options such as max_steps, got {config.trainer!r}")
    if config.trainer.max_epochs is not None and not _mentions("max_steps", argv):
        config.trainer.max_steps = -1  # who asks for epochs does not mean our default number of steps
    return config


def _mentions(option: str, argv: Sequence[str]) -> bool:
    files = (Path(name).read_text(encoding="utf-8") for name in config_files(argv))
    return any(option in text for text in (*argv, *files))


def _known_options(parser: LightningArgumentParser) -> list[str]:
    return sorted({action.dest for action in parser._actions if action.dest not in ("help", "print_config")})


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
        kinds = re.sub(r"typing\.Literal\[(.*?)\]|<class '(.*?)'>", r"\1\2", several[2] + "]")
        return f"{several[1]}: expected one of {kinds.rstrip(']')}; got {several[3]}"
    text = re.sub(r'^Parser key "([\w.]+)": ', r"\1: ", text)
    text = re.sub(r"Expected an? <class '([\w.]+)'>\. Got value: (.*)$", r"expected \1, got \2", text)
    text = re.sub(r"Expected an? typing\.Literal\[(.*?)\]\. Got value: (.*)$", r"expected \1; got \2", text)
    return re.sub(r"Not of type \w+: ", "", text)


def _no_such(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:
        leaf = name.rpartition(".")[2]
        near = [option for option in known if option.rpartition(".")[2] == leaf][:1]
    hint = f"; did you mean {near[0]}?" if near else "; gmvq fit --help lists the options"
    return f"there is no option {name!r}{hint}"


def config_files(argv: Sequence[str]) -> list[str]:
    """Return the config files named on a command line, in order."""
    return [name for name in _config_arguments(argv) if Path(name).suffix in (".yaml", ".yml", ".json")]


def _config_arguments(argv: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    return parser.parse_known_args(list(argv))[0].config

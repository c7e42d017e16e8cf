"""``gmvq prior fit`` and ``gmvq prior push``: train a distribution over tokens, with the comforts of ``gmvq fit``."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import require
from .common import Parser, say
from .records import quieten, write_records
from .runs import LAST, checkpoint_to_resume, new_run_dir, run_dir_of, run_name, write_text

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from ..prior import PriorModule, TokenDataModule

_RUN_DIR = "_GMVQ_RUN_DIR"
_DEFAULTS: dict[str, Any] = {
    "max_steps": 1000,
    "log_every_n_steps": 20,
    "val_check_interval": 250,
    "check_val_every_n_epoch": None,
    "limit_val_batches": 20,
}
_USAGE = (
    "usage: gmvq prior fit TOKENS [--OPTION VALUE ...]\n       gmvq prior push PRIOR OWNER/NAME [--private]"
)


def run(argv: Sequence[str]) -> int:
    """Train or publish; return the exit code: 0, or 128 + the signal that stopped the run."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    if argv[0] not in ("fit", "push"):
        raise ValueError(f"expected gmvq prior fit or gmvq prior push, got {argv[0]!r}")
    return _fit(argv[1:]) if argv[0] == "fit" else _push(argv[1:])


def _fit(argv: Sequence[str]) -> int:
    for module, extra in (
        ("lightning.pytorch", "train"),
        ("jsonargparse", "train"),
        ("transformers", "prior"),
    ):
        require(module, extra)
    quieten()
    from ..prior import PriorModule, TokenDataModule
    from ..training.trainer import build_trainer, default_precision
    from .options import config_files, parse_options

    parser = _fit_parser()
    config = parse_options(parser, argv)
    checkpoint = None
    if config.ckpt_path:
        tokens = config.tokens or config.data.path
        checkpoint = checkpoint_to_resume(
            config.ckpt_path, config.out, _name(config.name, argv, tokens or "prior")
        )
        stored = run_dir_of(checkpoint) / "config.yaml"
        if stored.is_file() and not config_files(argv):
            config = parse_options(parser, ["--config", str(stored), *argv])
    tokens = config.tokens or config.data.path
    if not tokens:
        raise ValueError("which tokens? gmvq prior fit TOKENS, a folder written by gmvq encode")
    config["tokens"], config.data["path"] = None, str(tokens)
    name = _name(config.name, argv, tokens)
    if checkpoint is not None and config.out is None:
        run_dir = run_dir_of(checkpoint)
    else:
        run_dir = Path(os.environ.get(_RUN_DIR) or new_run_dir(config.out, name))
        if checkpoint is not None and config.out and Path(config.out).expanduser().is_dir():
            same = Path(config.out).expanduser().resolve() == run_dir_of(checkpoint).resolve()
            run_dir = run_dir_of(checkpoint) if same else run_dir
    data = TokenDataModule(**vars(config.data))
    module = PriorModule(data.spec, **vars(config.model))
    step = _steps_done(module, checkpoint)
    config["out"], config["name"], config["ckpt_path"] = None, name, None
    note = f", going on after step {step}" if checkpoint else ""

    def begin(trainer: Trainer) -> None:
        spec = data.spec
        shape, labels = " x ".join(map(str, spec.shape)), f", {spec.labels} labels" if spec.labels else ""
        say(f"run folder: {run_dir}{note}")
        say(f"tokens: {len(data.rows('train')):,} images of {shape} codes of {spec.codebook_size}{labels}")
        write_records(run_dir, parser.dump(config, skip_none=False), "gmvq prior fit", argv, trainer, step)

    if config.trainer["precision"] is None:
        config.trainer["precision"] = default_precision(config.trainer["accelerator"])
    trainer = build_trainer(
        dict(config.trainer),
        run_dir,
        save_every=config.save_every,
        logger=config.logger,
        from_step=step,
        begin=begin,
    )
    if trainer.is_global_zero:
        os.environ[_RUN_DIR] = str(run_dir)
    try:
        return _train(trainer, module, data, checkpoint, run_dir)
    finally:
        os.environ.pop(_RUN_DIR, None)


def _train(
    trainer: Trainer, module: PriorModule, data: TokenDataModule, checkpoint: Path | None, run_dir: Path
) -> int:
    from ..training.callbacks import StopRequested

    resume = f"gmvq prior fit --ckpt_path {shlex.quote(str(run_dir))}"
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except StopRequested as stop:
        if trainer.is_global_zero:
            say(f"\n{stop}, with a checkpoint. Go on with: {resume}")
        return 128 + int(stop.signal)
    except SystemExit:  # how Lightning ends on a second Ctrl-C, or one before the first step
        last = (run_dir / LAST).is_file()
        say(
            f"\nstopped at once. Go on with: {resume}"
            if last
            else "\nstopped; there is nothing to go on from"
        )
        return 128 + int(signal.SIGINT)
    if trainer.is_global_zero:
        _export(module, data, trainer, run_dir)
    return 0


def _export(module: PriorModule, data: TokenDataModule, trainer: Trainer, run_dir: Path) -> None:
    """Write ``model/`` and ``metrics.json``, and print the figures on the test tokens."""
    from ..prior.measure import measure_prior

    notes: dict[str, Any] = {
        "step": trainer.global_step,
        "tokens": data.settings,
        "tokenizer_sha256": data.manifest.checkpoint_sha256,
        "tokenizer": data.manifest.checkpoint_path,
        "settings": module.settings,
    }
    folder = run_dir / "model"
    module.prior.save_pretrained(folder, metadata=notes)
    say(f"trained for {trainer.global_step} steps; measuring on the test tokens")
    figures = measure_prior(module.prior.to(trainer.strategy.root_device), data.rows("test")).to_dict()
    write_text(run_dir / "metrics.json", json.dumps(figures, indent=2) + "\n")
    module.prior.save_pretrained(folder, metadata={**notes, "metrics": figures})
    for name, value in figures.items():
        print(f"{name:<26}{value if isinstance(value, int) else format(value, '.4f')}")
    say(f"written to {run_dir}: model/, metrics.json")
    tokenizer = shlex.quote(data.manifest.checkpoint_path or "TOKENIZER")
    say(f"draw from it with: gmvq sample {shlex.quote(str(run_dir))} {tokenizer} --n 64 --out samples")


def _fit_parser() -> LightningArgumentParser:
    from jsonargparse import ActionConfigFile
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from ..prior import PriorModule, TokenDataModule
    from .options import OURS

    parser = LightningArgumentParser(
        prog="gmvq prior fit",
        usage="gmvq prior fit TOKENS [--config FILE] [--OPTION VALUE ...]",
        description="Train a distribution over the tokens that gmvq encode wrote; go on with a run by --ckpt_path.",
        exit_on_error=False,
    )
    parser.add_argument("tokens", type=str | None, nargs="?", help="Folder of the tokens.")
    parser.add_argument("--config", "-c", action=ActionConfigFile, help="Read options from this YAML file.")
    parser.add_argument("--name", type=str | None, help="Name of the run: its folder is runs/NAME.")
    parser.add_argument("--out", type=str | None, help="Folder of the run, in place of runs/NAME.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights, masks, dropout and order.")
    parser.add_argument(
        "--ckpt_path", type=str | None, help="Go on from this checkpoint; 'last' is the newest of the run."
    )
    parser.add_argument(
        "--logger",
        type=Literal["tensorboard", "wandb", "none"],
        default="tensorboard",
        help="Where figures go beside history.jsonl.",
    )
    parser.add_argument("--save_every", type=int, default=200, help="Steps between two checkpoints.")
    parser.add_class_arguments(PriorModule, "model", skip={"spec"}, instantiate=False, sub_configs=True)
    parser.add_class_arguments(TokenDataModule, "data", skip={"path"}, instantiate=False, sub_configs=True)
    parser.add_argument("--data.path", type=str | None, help="Folder of the tokens, as the first argument.")
    parser.add_class_arguments(Trainer, "trainer", skip=set(OURS), instantiate=False, sub_configs=True)
    parser.link_arguments("seed", "model.seed")
    parser.link_arguments("seed", "data.seed")
    parser.set_defaults({f"trainer.{key}": value for key, value in _DEFAULTS.items()})
    return parser


def _steps_done(module: PriorModule, checkpoint: Path | None) -> int:
    """The steps that a checkpoint has behind it; 0 without one.

    Raises:
        ValueError: it is not of this prior.
    """
    if checkpoint is None:
        return 0
    from ..training.checkpoint import check_fits, read_checkpoint

    contents = read_checkpoint(checkpoint)
    check_fits(contents, module.state_dict(), module.settings)
    return int(contents["global_step"])


def _name(name: str | None, argv: Sequence[str], tokens: str) -> str:
    from .options import config_files

    if name or config_files(argv):
        return run_name(name, config_files(argv), tokens)
    return f"{run_name(None, [], str(Path(tokens).expanduser().resolve()))}-prior"


def _push(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="gmvq prior push", description="Publish a prior on the Hugging Face Hub, with a card."
    )
    parser.add_argument("prior", metavar="PRIOR", help="a run folder of gmvq prior fit, or a saved prior")
    parser.add_argument("repo_id", metavar="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a newly created repository private")
    parser.add_argument("--license", help="of the weights, as the Hub spells it, such as apache-2.0")
    options = parser.parse_args(list(argv))
    require("transformers", "prior")
    from ..prior.opening import open_prior

    prior, notes = open_prior(options.prior)
    print(
        prior.push_to_hub(options.repo_id, private=options.private, metadata=notes, license=options.license)
    )
    return 0

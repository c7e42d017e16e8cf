"""``gmvq prior fit`` and ``gmvq prior push``: train a distribution over tokens, with the comforts of ``gmvq fit``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import require
from ..files import real_path, write_json
from .common import add_license, parser_of, say, switch, tell
from .training_run import TrainingRun, plan, prepare, run_name

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from ..prior import PriorModule, TokenDataModule

_USAGE = (
    "usage: gmvq prior fit TOKENS [--OPTION VALUE ...]\n       gmvq prior push PRIOR OWNER/NAME [--private]"
)


def run(argv: Sequence[str]) -> int:
    """Train or publish; return the exit code: 0, or 128 + the signal that stopped the run."""
    if not argv or argv[0] in ("-h", "--help"):
        tell(_USAGE)
        return 0 if argv else 2
    if argv[0] not in ("fit", "push"):
        raise ValueError(f"expected gmvq prior fit or gmvq prior push, got {argv[0]!r}")
    return _fit(argv[1:]) if argv[0] == "fit" else _push(argv[1:])


def _fit(argv: Sequence[str]) -> int:
    prepare()
    require("transformers", "prior")
    from ..models.interface import sizes_text
    from ..prior import PriorModule, TokenDataModule

    planned = plan("gmvq prior fit", _fit_parser(), argv, lambda config: _name(config, argv))
    config = planned.config
    tokens = config.tokens or config.data.path
    if not tokens:
        raise ValueError("which tokens? gmvq prior fit TOKENS, a folder written by gmvq encode")
    config["tokens"], config.data["path"] = None, str(real_path(tokens))
    data = TokenDataModule(**vars(config.data))
    _check_tokens(planned, data)
    module = PriorModule(data.spec, **vars(config.model))
    shape, spec = " x ".join(map(str, data.spec.shape)), data.spec
    labels = f", {spec.labels} labels" if spec.labels else ""
    text = f"tokens: {len(data.rows('train')):,} images of {shape} codes of {sizes_text(spec.sizes)}{labels}"
    return planned.train(module, data, text, lambda trainer: _export(planned.run_dir, module, data, trainer))


def _check_tokens(planned: TrainingRun, data: TokenDataModule) -> None:
    """Raise ValueError if a run would go on with tokens of another tokenizer, whose codes mean other things."""
    from ..training.checkpoint import read_entry

    if planned.contents is None:
        return
    stored = read_entry(planned.contents, "data", str(planned.checkpoint)) or {}
    then, now = stored.get("tokenizer_sha256"), data.settings["tokenizer_sha256"]
    if then and then != now:
        raise ValueError(
            f"the run was trained on tokens of the tokenizer {then[:16]}, and {data.path} holds tokens of {now[:16]}; "
            "go on with the tokens as they were, or begin a new run"
        )


def _export(run_dir: Path, module: PriorModule, data: TokenDataModule, trainer: Trainer) -> int:
    """Write ``model/`` and ``metrics.json``, and print the figures on the test tokens."""
    from ..prior.measure import measure_prior

    notes: dict[str, Any] = {
        "step": trainer.global_step,
        "tokens": data.settings,
        "tokenizer_sha256": data.manifest.checkpoint.sha256,
        "tokenizer": data.manifest.checkpoint.path,
        "settings": module.settings,
    }
    folder = run_dir / "model"
    module.prior.save_pretrained(folder, metadata=notes)
    say(f"trained for {trainer.global_step} steps; measuring on the test tokens")
    figures = asdict(measure_prior(module.prior.to(trainer.strategy.root_device), data.rows("test")))
    write_json(run_dir / "metrics.json", figures)
    module.prior.save_pretrained(folder, metadata={**notes, "metrics": figures})
    for name, value in figures.items():
        tell(f"{name:<26}{value if isinstance(value, int) else format(value, '.4f')}")
    say(f"written to {run_dir}: model/, metrics.json")
    tokenizer = shlex.quote(data.manifest.checkpoint.path or "TOKENIZER")
    say(f"draw from it with: gmvq sample {shlex.quote(str(run_dir))} {tokenizer} --n 64 --out samples")
    return 0


def _fit_parser() -> LightningArgumentParser:
    from lightning.pytorch.cli import LightningArgumentParser

    from ..prior import PriorModule, TokenDataModule
    from ..training.trainer import TRAINER_DEFAULTS
    from .options import add_run_options

    parser = LightningArgumentParser(
        prog="gmvq prior fit",
        usage="gmvq prior fit TOKENS [--config FILE] [--OPTION VALUE ...]",
        description="Train a distribution over the tokens that gmvq encode wrote; go on with a run by --ckpt_path.",
        exit_on_error=False,
    )
    parser.add_argument("tokens", type=str | None, nargs="?", help="Folder of the tokens.")
    add_run_options(parser, {**TRAINER_DEFAULTS, "max_steps": 1000, "limit_val_batches": 20})
    parser.add_class_arguments(PriorModule, "model", skip={"spec"}, instantiate=False)
    parser.add_class_arguments(TokenDataModule, "data", skip={"path"}, instantiate=False)
    parser.add_argument("--data.path", type=str | None, help="Folder of the tokens, as the first argument.")
    parser.link_arguments("seed", "model.seed")
    parser.link_arguments("seed", "data.seed")
    return parser


def _name(config: Namespace, argv: Sequence[str]) -> str:
    from .options import config_files

    tokens = config.tokens or config.data.path or "tokens"
    if config.name or config_files(argv):
        return run_name(config.name, config_files(argv), tokens)
    return f"{run_name(None, [], str(real_path(tokens)))}-prior"


def _push(argv: Sequence[str]) -> int:
    parser = parser_of("prior push", "Publish a prior on the Hugging Face Hub, with a card.")
    parser.add_argument("prior", metavar="PRIOR", help="a run folder of gmvq prior fit, or a saved prior")
    parser.add_argument("repo_id", metavar="OWNER/NAME")
    switch(parser, "--private", "make a newly created repository private")
    add_license(parser)
    options = parser.parse_args(list(argv))
    require("transformers", "prior")
    from ..prior.opening import open_prior

    prior, notes = open_prior(options.prior)
    tell(prior.push_to_hub(options.repo_id, private=options.private, metadata=notes, license=options.license))
    return 0

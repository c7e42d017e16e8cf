"""A prior as two files, ``model.safetensors`` and ``config.json``, in a folder or on the Hub, and its card."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from ..files import write_text
from ..models.card import fill_card, public_metadata
from ..models.hub import CARD, resolve
from ..models.interface import sizes_text
from ..models.pretrained import CONFIG, FORMAT_VERSION, WEIGHTS, read_config, write_folder
from ..models.weights import build_filled, described_digest, named_in_errors, read_weights
from ..reading import is_number
from ..screen import markdown
from ..training.notes import check_notes

CLASS = "TokenPrior"
#: A tokenizer that others find, unlike a folder of the machine that trained the prior.
_NAME = re.compile(r"(builtin|hf):[\w./-]+")
_KEYS = ("format_version", "class", "prior")


def save(prior: Any, directory: str | os.PathLike[str], metadata: dict[str, Any] | None) -> None:
    """Write the two files of ``prior`` into ``directory``."""
    config = {
        "format_version": FORMAT_VERSION,
        "class": CLASS,
        "prior": prior.to_config(),
        "metadata": metadata or {},
    }
    write_folder(directory, config, prior.state_dict())


def load(
    cls: Any, path_or_hub_id: str | os.PathLike[str], revision: str | None, token: str | bool | None
) -> Any:
    """Build the prior described in a folder or Hub repository, on the CPU, and fill in its weights."""
    folder = resolve(path_or_hub_id, revision=revision, token=token)
    config = read_config(folder / CONFIG, CLASS, _KEYS)
    return build(cls, config["prior"], read_weights(folder / WEIGHTS), folder / CONFIG)


def build(cls: Any, config: Any, weights: dict[str, torch.Tensor], file: object) -> Any:
    """Build a prior by its configuration, and fill in tensors that have to fit it."""

    def make() -> Any:
        with named_in_errors(file, "prior"):
            return cls.from_config(config)

    return build_filled(make, weights, file)


def load_notes(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``metadata`` of a saved prior: tokenizer, tokens, step, metrics; {} where there is none."""
    file = Path(folder) / CONFIG
    return check_notes(read_config(file, CLASS, _KEYS).get("metadata"), file)


def digest(prior: Any) -> str:
    """SHA-256 over the configuration and every tensor, in hexadecimal digits."""
    return described_digest(prior.to_config(), prior.state_dict())


def save_repository(
    prior: Any, folder: Path, repo_id: str, notes: dict[str, Any], license: str | None
) -> None:
    """Write what a Hub repository holds: the two files, without local paths in their metadata, and the card."""
    notes = public_metadata(notes)
    save(prior, folder, notes)
    write_text(folder / CARD, card(prior, repo_id, notes, license))


def card(prior: Any, repo_id: str, notes: dict[str, Any], license: str | None) -> str:
    """The README.md of a Hub repository with a prior: what it is, its figures, how to draw from it."""
    spec, metrics = prior.spec, notes.get("metrics") or {}
    tokenizer, step = str(notes.get("tokenizer")), notes.get("step")
    return fill_card(
        "prior_card.md.j2",
        {"license": license, "tags": ["gmvq", "image-generation", "vector-quantization", "pytorch"]},
        name=markdown(repo_id.rpartition("/")[2]),
        repo_id=repo_id,
        kind=prior.kind,
        size=prior.config["size"],
        parameters=f"{sum(parameter.numel() for parameter in prior.parameters()) / 1e6:.2f}",
        steps=step if is_number(step) else None,
        shape=" x ".join(map(str, spec.shape)),
        codebook_size=sizes_text(spec.sizes),
        labels=spec.labels,
        metrics={markdown(name): value for name, value in metrics.items() if isinstance(value, int | float)},
        tokenizer=tokenizer if _NAME.fullmatch(tokenizer) else None,
        tokenizer_sha256=markdown(notes.get("tokenizer_sha256", "not stated")),
    )

"""A prior as two files, ``model.safetensors`` and ``config.json``, in a folder or on the Hub, and its card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from safetensors.torch import save_file

from ..files import written_whole
from ..models.card import MARKER, public_metadata
from ..models.hub import CARD, resolve, upload
from ..models.pretrained import CONFIG, FORMAT_VERSION, WEIGHTS, read_config
from ..models.weights import DIGEST, fill, misfits, naming, read_weights, tensors_digest
from .spec import TokenSpec

CLASS = "TokenPrior"
_KEYS = ("format_version", "class", "prior")


class Savable(Protocol):
    """What is saved of a prior, and how it is built again."""

    kind: str
    config: dict[str, Any]
    spec: TokenSpec

    def to_config(self) -> dict[str, Any]: ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self: ...

    def state_dict(self) -> dict[str, torch.Tensor]: ...


Prior = TypeVar("Prior", bound=Savable)


def save(prior: Savable, directory: str | os.PathLike[str], metadata: dict[str, Any] | None) -> None:
    """Write the two files of ``prior`` into ``directory``."""
    config = {
        "format_version": FORMAT_VERSION,
        "class": CLASS,
        "prior": prior.to_config(),
        "metadata": metadata or {},
    }
    text = json.dumps(config, indent=2) + "\n"
    weights = {name: value.detach().cpu().contiguous() for name, value in prior.state_dict().items()}
    folder = Path(directory)
    header = {"format": "pt", DIGEST: tensors_digest(weights)}
    with written_whole(folder / WEIGHTS) as file:
        save_file(weights, file, metadata=header)
    with written_whole(folder / CONFIG) as file:
        file.write_text(text, encoding="utf-8")


def load(
    cls: type[Prior], path_or_hub_id: str | os.PathLike[str], revision: str | None, token: str | bool | None
) -> Prior:
    """Build the prior described in a folder or Hub repository, on the CPU, and fill in its weights."""
    folder = resolve(path_or_hub_id, revision=revision, token=token)
    config = read_config(folder / CONFIG, CLASS, _KEYS)
    return build(cls, config["prior"], read_weights(folder / WEIGHTS), folder / CONFIG)


def build(cls: type[Prior], config: Any, weights: dict[str, torch.Tensor], file: object) -> Prior:
    """Build a prior by its configuration, and fill in tensors that have to fit it.

    Raises:
        ValueError: they do not, or the configuration cannot be used; ``file`` is named.
    """
    with naming(file, "prior"), torch.device("meta"):  # shapes alone: a damaged size asks for no memory
        own = cls.from_config(config).state_dict()
    problems = misfits(weights, own)
    if problems:
        raise ValueError(
            f"{file}: the tensors do not fit the prior described in it: {'; '.join(problems[:5])}"
        )
    prior: Any = cls.from_config(config)
    fill(prior, weights)
    return prior


def load_notes(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``metadata`` of a saved prior: tokenizer, tokens, step, metrics; {} where there is none."""
    metadata = read_config(Path(folder) / CONFIG, CLASS, _KEYS).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def digest(prior: Savable) -> str:
    """SHA-256 over the configuration and every tensor, in hexadecimal digits."""
    text = json.dumps(prior.to_config(), sort_keys=True) + tensors_digest(prior.state_dict())
    return hashlib.sha256(text.encode()).hexdigest()


def push(
    prior: Savable,
    repo_id: str,
    *,
    private: bool,
    token: str | bool | None,
    commit_message: str,
    metadata: dict[str, Any] | None,
    license: str | None,
) -> str:
    """Upload ``prior`` with its card; return the commit's address."""
    notes = public_metadata(metadata)

    def write(folder: Path) -> None:
        save(prior, folder, notes)
        text = card(prior, repo_id, notes, license)
        (folder / CARD).write_text(text, encoding="utf-8")

    return upload(write, repo_id, private=private, token=token, commit_message=commit_message)


def card(prior: Savable, repo_id: str, notes: dict[str, Any], license: str | None) -> str:
    """The README.md of a Hub repository with a prior: what it is, its figures, how to draw from it."""
    spec, metrics = prior.spec, notes.get("metrics") or {}
    shape = " x ".join(map(str, spec.shape))
    front = ["---", "library_name: gmvq", "tags: [gmvq, image-generation, vector-quantization, pytorch]"]
    front += [f"license: {license}"] if license else []
    lines = [
        *front,
        "---",
        MARKER,
        "",
        f"# {repo_id.rpartition('/')[2]}",
        "",
        f"A {prior.kind} transformer ({prior.config['size']}) over {shape} tokens of {spec.codebook_size} codes"
        + (f", {spec.labels} labels" if spec.labels else "")
        + ", trained by the Python package `gmvq`.",
        "" if license else "\nIts author has stated no licence.",
        *(f"- {name}: {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float)),
        f"- tokenizer: sha256 `{notes.get('tokenizer_sha256', 'not stated')}`",
        "",
        "```bash",
        f"gmvq sample {repo_id} TOKENIZER --n 64 --out samples",
        "```",
        "",
        "```python",
        "from gmvq.prior import TokenPrior",
        "",
        f'prior = TokenPrior.from_pretrained("{repo_id}")',
        "images = tokenizer.decode(prior.sample(16, seed=0))",
        "```",
    ]
    return "\n".join(lines) + "\n"

"""A prior as two files, ``model.safetensors`` and ``config.json``, in a folder or on the Hub, and its card."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file

from ..files import atomic_write
from ..models.card import MARKER, public_metadata
from ..models.hub import CARD, resolve, upload
from ..models.pretrained import CONFIG, FORMAT_VERSION, WEIGHTS, read_config
from ..models.weights import DIGEST, fill, misfits, naming, read_weights, tensors_digest

if TYPE_CHECKING:
    from .prior import TokenPrior

CLASS = "TokenPrior"
_KEYS = ("format_version", "class", "prior")
Prior = TypeVar("Prior", bound="TokenPrior")


def save(prior: TokenPrior, directory: str | os.PathLike[str], metadata: dict[str, Any] | None) -> None:
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
    with atomic_write(folder / WEIGHTS) as file:
        save_file(weights, file, metadata=header)
    with atomic_write(folder / CONFIG) as file:
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
    prior = cls.from_config(config)
    fill(prior, weights)
    return prior


def load_notes(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``metadata`` of a saved prior: tokenizer, tokens, step, metrics; {} where there is none."""
    metadata = read_config(Path(folder) / CONFIG, CLASS, _KEYS).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def digest(prior: TokenPrior) -> str:
    """SHA-256 over the configuration and every tensor, in hexadecimal digits."""
    text = json.dumps(prior.to_config(), sort_keys=True) + tensors_digest(prior.state_dict())
    return hashlib.sha256(text.encode()).hexdigest()


def push(
    prior: TokenPrior,
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


def card(prior: TokenPrior, repo_id: str, notes: dict[str, Any], license: str | None) -> str:
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

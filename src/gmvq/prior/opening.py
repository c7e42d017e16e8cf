"""``open_prior``: a trained prior from wherever it lies, with what is known about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..files import PathLike
from ..models.hub import resolve
from ..models.pretrained import CONFIG
from ..training.checkpoint import find_model, read_checkpoint, read_entry, weights_of
from ..training.notes import check_notes
from .prior import TokenPrior, read_prior_config


def open_prior(
    path: PathLike, *, map_location: str | torch.device = "cpu"
) -> tuple[TokenPrior, dict[str, Any]]:
    """Load a prior, in eval mode, and its notes: ``tokens`` (path, tokenizer_sha256), ``step``, ``metrics``.

    ``path`` is a run folder of ``gmvq prior fit``, a folder of ``save_pretrained``, a .ckpt file, "builtin:NAME", or
    "owner/name" on the Hub. Of a run's exported model and its last checkpoint the newer one counts.
    """
    found = find_model(path)
    if isinstance(found, Path) and found.is_file():
        checkpoint = read_checkpoint(found)
        if "prior" not in checkpoint["gmvq"]:
            raise ValueError(
                f"{found} is the checkpoint of a tokenizer; a prior is trained by gmvq prior fit"
            )
        config = read_entry(checkpoint, "prior", found)
        prior = TokenPrior.filled(config, weights_of(checkpoint, "prior."), found)
        tokens = read_entry(checkpoint, "data", found)
        notes = check_notes({"tokens": tokens, "step": checkpoint["global_step"]}, found)
        notes["tokenizer"] = (tokens or {}).get("tokenizer")
        return prior.to(map_location).eval(), notes
    folder = resolve(found)
    notes = check_notes(read_prior_config(folder).get("metadata"), folder / CONFIG)
    return TokenPrior.from_pretrained(folder, map_location=map_location), notes

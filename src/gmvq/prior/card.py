"""The card of a prior, for the front page of a Hub repository."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models.card import fill_card
from ..models.interface import sizes_text
from ..reading import is_number
from ..screen import markdown

if TYPE_CHECKING:
    from .prior import TokenPrior

#: A tokenizer that others find, unlike a folder of the machine that trained the prior.
_NAME = re.compile(r"(builtin|hf):[\w./-]+")


def prior_card(prior: TokenPrior, *, repo_id: str, metadata: Mapping[str, Any], license: str | None) -> str:
    """The README.md of a Hub repository with a prior: what it is, its figures, how to draw from it."""
    spec, metrics = prior.spec, metadata.get("metrics") or {}
    tokenizer, step = str(metadata.get("tokenizer")), metadata.get("step")
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
        tokenizer_sha256=markdown(metadata.get("tokenizer_sha256", "not stated")),
    )

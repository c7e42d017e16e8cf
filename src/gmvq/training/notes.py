"""What is known about the training of a model or prior, checked entry by entry before anything computes with it.

msgspec names the entry and what was expected: "Expected `int`, got `array` - at `$.data.size`".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from ..errors import as_value_error, require

require("msgspec", "data")

import msgspec  # noqa: E402
from msgspec import Meta, Struct  # noqa: E402

from ..models.hub import PREFIX  # noqa: E402
from ..reading import is_number, is_remote  # noqa: E402

Size = Annotated[int, Meta(ge=1, le=1 << 31)]
Number = int | float


class Data(Struct):
    """What a model was trained on; others that use our files may add entries."""

    path: str | None = None
    size: Size | None = None
    channels: Size | None = None
    column: str | None = None
    test: str | None = None
    value_range: tuple[Number, Number] | None = None
    sample_rate: Size | None = None
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None


class Likelihood(Struct):
    """Of the reconstructions."""

    kind: str | None = None
    scale: str | None = None
    log_scale: Number = 0.0
    observations: Annotated[int, Meta(ge=0)] = 0


class Notes(Struct):
    """The entry ``metadata`` of a config.json, or the same of a checkpoint."""

    step: Annotated[int, Meta(ge=0)] | None = None
    data: Data | None = None
    tokens: Data | None = None
    likelihood: Likelihood | None = None
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None
    metrics: dict[str, Any] | None = None


def check_notes(notes: Any, where: object) -> dict[str, Any]:
    """Return the metadata of a model or prior; {} for none."""
    if notes is None:
        return {}
    what = f"{where}: the entry 'metadata' cannot be used"
    # A text may hold half of a surrogate pair.
    with as_value_error(what, msgspec.ValidationError, UnicodeEncodeError, advice="restore the file"):
        found = msgspec.convert(notes, Notes)
    limits = (found.data.value_range or ()) if found.data else ()
    numbers = [*limits, found.likelihood.log_scale if found.likelihood else 0.0]
    if not all(map(is_number, numbers)):
        raise ValueError(
            f"{where}: the entry 'metadata' holds NaN, infinity or a number that is too large: {numbers!s:.200}; "
            "restore the file"
        )
    return notes


def place_here(path: str, what: str, hint: str) -> str:
    """A place that a file names, if it is on this machine: what a file says never makes us use the network."""
    if path.startswith(PREFIX):
        return path
    if is_remote(path) or not Path(path.removeprefix("stream:")).expanduser().exists():
        raise FileNotFoundError(
            f"{what} names {path!r}, which is not on this machine, and nothing is downloaded unasked; {hint}"
        )
    return path

"""Quantizers and their parts as plain dictionaries, for config.json and back."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, cast

from ..functional import estimators, schedules
from . import parts
from .migrate import FORMER, migrate_config, migrate_part

_PARTS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        schedules.Constant,
        schedules.Linear,
        schedules.Cosine,
        schedules.Exponential,
        estimators.GumbelSoftmax,
        estimators.StraightThroughGumbel,
        parts.Objective,
        parts.Precision,
        parts.Variance,
    )
}


def part_to_dict(value: Any) -> Any:
    """A part (frozen dataclass) as ``{"type": name, field: value, ...}``; anything else unchanged.

    Raises:
        TypeError: a part of a class that is not ours, which a file could not name.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    name = type(value).__name__
    if _PARTS.get(name) is not type(value):
        raise TypeError(
            f"{type(value).__module__}.{name} cannot be written to a config: only the parts of gmvq can "
            f"({', '.join(sorted(_PARTS))}); save the state_dict yourself and build the layer in code"
        )
    fields = {f.name: part_to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return {"type": name, **FORMER.get(name, {}), **fields}


def part_from_dict(value: Any) -> Any:
    """The inverse of ``part_to_dict``.

    Raises:
        ValueError: an unknown type, or fields that it does not have.
    """
    if not isinstance(value, dict):
        return value
    part = migrate_part(cast(dict[str, Any], value))
    fields = {key: part_from_dict(item) for key, item in part.items() if key != "type"}
    kind = _PARTS.get(part.get("type", ""))
    if kind is None:
        raise ValueError(f"unknown part {part.get('type')!r}; expected one of {', '.join(sorted(_PARTS))}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(
            f"{part['type']}: {error}; does the file come from another version of gmvq?"
        ) from error


#: Arguments that came after the first release. At these values they are left out, as a model's digest is of its
#: configuration, and models without them keep theirs.
_LATER: dict[str, Any] = {"frozen_codes": False, "beam": 1}


def to_arguments(layer: Any, kind: type | None = None) -> dict[str, Any]:
    """The constructor's arguments of a layer, which holds each under its name, and its class as ``type``.

    ``kind`` is the class whose arguments are meant, if not the layer's own.
    """
    names = list(inspect.signature((kind or type(layer)).__init__).parameters)[1:]
    name = type(layer).__name__
    config = {"type": name, **FORMER.get(name, {})} | {
        key: part_to_dict(getattr(layer, key)) for key in names
    }
    return without_later(config)


def without_later(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the later arguments that have no effect."""
    return {key: value for key, value in config.items() if key not in _LATER or value != _LATER[key]}


def from_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments from a dictionary of ``to_arguments``, of this or an earlier version."""
    return {key: part_from_dict(value) for key, value in migrate_config(config).items() if key != "type"}

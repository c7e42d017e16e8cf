"""Check helpers: every bad input ends in an error that says what was expected, what came, and what to do."""

# The checks are for callers whose types nothing has checked.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import importlib
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .screen import printable


class MissingExtraError(ImportError):
    """An optional dependency is absent; the message names the extra that installs it."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra installs it.

    Args:
        module: dotted module name, for example ``"lightning"``.
        extra: the extra of this package that brings it, for example ``"train"``.

    Raises:
        MissingExtraError: the module is not installed.
    """
    return import_or_tell(module, how_to_install(extra))


def how_to_install(extra: str) -> str:
    """The command that brings an extra, as a line for a shell: nothing is on PyPI yet."""
    return f"pip install -e '.[{extra}]'  # in a clone of gmvq"


def import_or_tell(module: str, command: str) -> ModuleType:
    """Import a module, or say which command installs it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs the package '{module.split('.')[0]}', which is not installed; install it with: {command}"
        ) from error


def one_line(error: BaseException, most: int = 400) -> str:
    """The message of an error on one line, cut to ``most`` characters; the error's class where it has none."""
    return printable(" ".join(str(error).split()) or type(error).__name__)[:most]


@contextmanager
def as_value_error(what: str, *kinds: type[Exception], advice: str = "") -> Generator[None]:
    """Raise errors of these kinds as ValueError: ``what`` went wrong, the message on one line, and what to do."""
    try:
        yield
    except kinds as error:
        raise ValueError(f"{what}: {one_line(error)}{f'; {advice}' if advice else ''}") from error


def check_size(name: str, value: int) -> None:
    """Raise unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    check_positive(name, value)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` > 0."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def check_seed(value: int) -> None:
    """Raise ValueError unless ``value`` is a seed for torch: a whole number of 64 bits."""
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"seed must be a whole number of at most 64 bits, got {value!s:.80}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_version(where: object, found: object, known: int) -> None:
    """Raise ValueError unless a file's format version is the one that this release reads."""
    if type(found) is not int or found != known:
        raise ValueError(
            f"{where}: expected format_version {known}, got {found!r:.80}; a higher one comes from a newer gmvq: "
            "update gmvq (git pull in its clone)"
        )


def check_schedule(name: str, schedule: Any, *, positive: bool = False) -> None:
    """Raise unless ``schedule`` can be called with progress and is not negative (or is positive) at both ends."""
    if not callable(schedule):
        raise TypeError(
            f"{name} must be a schedule, got {schedule!r}; a fixed value is Constant({schedule!r}), "
            "see gmvq.functional.schedules"
        )
    for progress in (None, 0.0, 1.0):
        when = "" if progress is None else f" at progress {progress:g}"
        value: Any = schedule(progress)
        if positive:
            check_positive(name + when, value)
        elif value < 0:
            raise ValueError(f"{name}{when} must not be negative, got {value}")


def check_part(name: str, part: object, example: object, attributes: tuple[str, ...]) -> None:
    """Raise TypeError unless ``part`` is an object (not a class, not a name) with these attributes."""
    if isinstance(part, type) or not all(hasattr(part, attribute) for attribute in attributes):
        raise TypeError(f"{name} must be an object such as {type(example).__name__}(...), got {part!r}")


def check_latents(latents: Tensor, dim: int) -> None:
    """Raise unless ``latents`` is a non-empty floating-point tensor of shape (..., dim)."""
    if not isinstance(latents, Tensor):
        raise TypeError(f"latents must be a torch.Tensor, got {type(latents).__name__}")
    if not latents.is_floating_point():
        raise TypeError(
            f"latents must be floating point, got {latents.dtype}; convert them with latents.float()"
        )
    if latents.ndim < 1 or latents.shape[-1] != dim:
        hint = ""
        if latents.ndim >= 2 and dim in latents.shape[:-1]:
            axis = list(latents.shape).index(dim)
            hint = f"; axis {axis} has size {dim}: move it to the end with latents.movedim({axis}, -1)"
        raise ValueError(
            f"latents must have shape (..., {dim}): the last axis is the feature axis; "
            f"got {tuple(latents.shape)}{hint}"
        )
    if latents.numel() == 0:
        raise ValueError(f"latents are empty, of shape {tuple(latents.shape)}; pass at least one vector")


class NotFiniteError(ValueError):
    """A tensor holds NaN or infinite values."""


def check_finite(name: str, values: Tensor) -> None:
    """Raise ValueError if ``values`` holds NaN or infinity.

    Skipped while compiling or exporting and on accelerators, where the check would stall the stream.
    """
    if torch.compiler.is_compiling() or values.device.type != "cpu":
        return
    if math.isfinite(
        values.detach().sum()
    ):  # one pass; a sum of finite values can overflow, so look closer then
        return
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise NotFiniteError(
            f"{name} hold {bad} NaN or infinite values of {values.numel()}; "
            "look for an overflow or a too high learning rate before the quantizer"
        )


#: How far resampling may overshoot [0, 1] before values count as being on another scale.
_OVERSHOOT = 0.25


def check_unit_range(images: Tensor) -> None:
    """Raise ValueError for images (B, C, H, W) that are not on the scale [0, 1]; signals have any values.

    Values up to a quarter outside are taken, as smooth resampling makes them.
    """
    if images.ndim != 4 or not images.numel():
        return
    low, high = (float(value) for value in images.detach().aminmax())
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
        if low != low or high != high:
            advice = "look for what made them NaN"
        elif high > 2:
            advice = "divide them by 255, or undo the normalisation by mean and deviation"
        else:
            advice = "bring them from [-1, 1] with (images + 1) / 2, or undo their normalisation"
        raise ValueError(f"images must have values in [0, 1], got {low:.4g} to {high:.4g}; {advice}")


def check_indices(indices: Tensor, codebook_size: int | Sequence[int]) -> Tensor:
    """Raise unless ``indices`` is an integer tensor with values in [0, codebook_size), or -1; it as int64.

    Several sizes are those of the codes on the last axis.
    """
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices must be a torch.Tensor, got {type(indices).__name__}")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"indices must be integers, got {indices.dtype}; convert them with indices.long()")
    indices = indices.long()
    if torch.compiler.is_compiling() or indices.device.type != "cpu" or indices.numel() == 0:
        return indices
    sizes = (codebook_size,) if isinstance(codebook_size, int) else tuple(codebook_size)
    columns = indices[None] if len(set(sizes)) == 1 else indices.movedim(-1, 0)
    for number, (size, column) in enumerate(zip(sizes, columns, strict=False), start=1):
        low, high = int(column.min()), int(column.max())
        if low < -1 or high >= size:
            which = "" if len(set(sizes)) == 1 else f" of level {number}"
            raise ValueError(
                f"indices{which} must lie in [0, {size - 1}] (or be -1 where masked), got values from {low} to "
                f"{high}; do they come from a model with another codebook size?"
            )
    return indices


def check_mask(mask: Tensor | None, shape: torch.Size) -> None:
    """Raise unless ``mask`` is None or a boolean tensor of ``shape`` (True = valid position)."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a boolean tensor (True = valid position), got {kind}")
    if mask.shape != shape:
        raise ValueError(f"mask must have the latents' leading shape {tuple(shape)}, got {tuple(mask.shape)}")

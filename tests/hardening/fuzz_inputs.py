"""Inputs that a user may have by mistake or malice, and what happens to them: a right answer or a named error.

Each ``Kind`` draws cases and runs one. It ends accepted, with the result checked, or refused, by an exception of a
type that the documentation names, raised by a line of this package. Anything else is ``UnexpectedError``.

The tests in tests/hardening run a few of each, ``tests/hardening/fuzz.py`` runs many and counts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_configs import CONFIGS, NOTES, SIDECARS, SUITES, run_config, run_notes, run_sidecar, run_suite
from fuzz_folders import DIFFUSERS, SAVED, run_diffusers, run_saved
from fuzz_formats import FONTS, PARQUET, SHARDS
from fuzz_images import IMAGES, Picture, run_image
from fuzz_latents import BATCHES, LATENTS, run_batch, run_latents
from fuzz_models import (
    CHECKPOINTS,
    FOLDERS,
    INDICES,
    UnexpectedError,
    run_checkpoint,
    run_folder,
    run_indices,
    small_model,
)
from fuzz_readers import ARRAYS, SOUNDS, TABLES, run_file
from fuzz_tokens import PRIORS, STREAMS, TOKENS, run_prior, run_stream, run_tokens
from hypothesis import strategies as st

import gmvq
import gmvq_bench

SECONDS = 10
_WAIT = 180
_SOURCES = tuple(os.path.dirname(str(package.__file__)) for package in (gmvq, gmvq_bench))
_NAMED = (ValueError, OSError, TypeError, gmvq.errors.MissingExtraError)


@dataclass(frozen=True)
class Kind:
    """One kind of input: how it is drawn, and what uses it (given an empty folder)."""

    name: str
    cases: st.SearchStrategy[Any]
    run: Callable[[Any, Path], object]


class _TooLong(BaseException):
    """Out of the reach of ``except Exception``."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Stop after ``SECONDS`` of processor time, which does not depend on other work, or a wait of minutes."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise _TooLong("".join(traceback.format_stack(frame, 6)))

    limits = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, _WAIT))
    before = [signal.signal(number, stop) for number, _, _ in limits]
    for _, timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def outcome(kind: Kind, case: Any, folder: Path) -> str:
    """Use one input; return ``"accepted"`` or ``"refused: <exception>"``.

    Raises:
        UnexpectedError: neither.
    """
    try:
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.run(case, folder)
    except UnexpectedError:
        raise
    except _TooLong as error:
        raise UnexpectedError(f"more than {SECONDS} s for {shown(case)}, in\n{error}") from None
    except _NAMED as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not last.filename.startswith(_SOURCES):
            place = f"{last.filename}:{last.lineno}"
            raise UnexpectedError(f"{type(error).__name__} from {place} for {shown(case)}") from error
        if len(str(error)) < 10:
            raise UnexpectedError(
                f"{type(error).__name__} says only {str(error)!r} for {shown(case)}"
            ) from error
        return f"refused: {type(error).__name__}"
    except Exception as error:
        raise UnexpectedError(f"{type(error).__name__}: {str(error)[:500]} for {shown(case)}") from error
    return "accepted"


def shown(case: Any) -> str:
    """A case for a message; the middle of a long one is left out."""
    text = repr(case)
    return text if len(text) < 1000 else f"{text[:500]} ... {text[-500:]}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("model folders", FOLDERS, run_folder),
        Kind("checkpoints", CHECKPOINTS, run_checkpoint),
        Kind("configs", CONFIGS, run_config),
        Kind("images", IMAGES, run_image),
        Kind("latents", LATENTS, run_latents),
        Kind("batches", BATCHES, run_batch),
        Kind("indices", INDICES, run_indices),
        Kind("arrays", ARRAYS, run_file),
        Kind("tables", TABLES, run_file),
        Kind("sound", SOUNDS, run_file),
        Kind("fonts", FONTS, run_file),
        Kind("parquet", PARQUET, run_file),
        Kind("saved by datasets", SAVED, run_saved),
        Kind("diffusers", DIFFUSERS, run_diffusers),
        Kind("shards", SHARDS, run_file),
        Kind("tokens", TOKENS, run_tokens),
        Kind("priors", PRIORS, run_prior),
        Kind("token streams", STREAMS, run_stream),
        Kind("notes of runs", NOTES, run_notes),
        Kind("suites", SUITES, run_suite),
        Kind("exports", SIDECARS, run_sidecar),
    )
}
__all__ = ["KINDS", "Kind", "Picture", "UnexpectedError", "outcome", "small_model"]

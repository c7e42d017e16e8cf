"""Inputs that a user may have by mistake or malice, and what happens to them: a right answer or a named error.

Each ``Kind`` draws cases and runs one. It ends accepted, with the result checked, or refused, by an exception of a
type that the documentation names, raised by a line of this package. Anything else is ``UnexpectedError``.

The tests in tests/hardening run a few of each, ``tests/hardening/fuzz.py`` runs many and counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from fuzz_configs import CONFIGS, NOTES, run_config, run_notes
from fuzz_damage import BYTES, TENSORS, entries
from fuzz_folders import DIFFUSERS, SAVED, run_diffusers, run_saved
from fuzz_images import IMAGES, Picture, run_image
from fuzz_latents import BATCHES, LATENTS, run_batch, run_latents
from fuzz_readers import (
    ARRAYS,
    FONTS,
    INDICES,
    PARQUET,
    SHARDS,
    SIDECARS,
    SOUNDS,
    SUITES,
    TABLES,
    run_file,
    run_indices,
    run_sidecar,
    run_suite,
)
from fuzz_tokens import PRIORS, STREAMS, TOKENS, run_prior, run_stream, run_tokens
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import gmvq
import gmvq_bench
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.training.checkpoint import describe_model, load_model, open_model

SECONDS = 10
_WAIT = 180
_SOURCES = tuple(os.path.dirname(str(package.__file__)) for package in (gmvq, gmvq_bench))
_NAMED = (ValueError, OSError, TypeError, gmvq.errors.MissingExtraError)


class UnexpectedError(AssertionError):
    """A traceback from elsewhere, a hang, or a wrong answer."""


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


# Models


@cache
def small_model() -> VQAutoencoder:
    """A tiny model with a codebook of its own latents."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=1, dim=3, codebook_size=8)
    with torch.no_grad():
        model.quantizer.init_codebook(model.encoder(_probe()).movedim(1, -1))  # pyright: ignore
    return model.eval()


def _probe() -> Tensor:
    return torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(1))


@cache
def _files() -> dict[str, bytes]:
    """The two files of the model."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        small_model().save_pretrained(folder, metadata={"data": {"path": "photos", "size": 8}, "step": 3})
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@cache
def _config() -> dict[str, Any]:
    return json.loads(_files()["config.json"])


def _check_model(model: VQAutoencoder, *, same: bool) -> None:
    """It has to work, and where nothing that matters was changed, to compute the same."""
    images = _probe().to(next(model.parameters()).dtype)
    if not same:
        model.reconstruct(images)
        return
    expected = small_model()
    if not torch.equal(model.encode(images), expected.encode(_probe())):
        raise UnexpectedError("accepted, and other indices than those of the model saved")
    if not torch.allclose(model.reconstruct(images).float(), expected.reconstruct(_probe()), atol=1e-2):
        raise UnexpectedError("accepted, and other images than those of the model saved")


def _describes_the_same(config: Any) -> bool:
    return all(config.get(key) == _config()[key] for key in ("layout", "networks", "quantizer"))


def run_folder(case: tuple[str, Any], folder: Path) -> None:
    """Load a damaged model folder."""
    name, damage = case
    files = dict(_files())
    for file, data in files.items():
        (folder / file).write_bytes(data)
    if name == "entries":
        (folder / "config.json").write_text(json.dumps(damage(_config())))
    elif name == "tensors":
        changed = damage(load_file(folder / "model.safetensors"))
        save_file(changed, folder / "model.safetensors")
    elif name == "header":
        (folder / "model.safetensors").write_bytes(damage)
    else:
        (folder / name).write_bytes(damage(files[name]))
    model = VQAutoencoder.from_pretrained(folder)
    open_model(folder)
    config = json.loads((folder / "config.json").read_text())
    half = name == "tensors" and damage.kind == "half"
    _check_model(model, same=_describes_the_same(config) and not half)


def _header(numbers: tuple[int, int, str]) -> bytes:
    """A safetensors file whose header declares other sizes than it holds."""
    size, end, dtype = numbers
    tensors = {"encoder.linear.bias": {"dtype": dtype, "shape": [size], "data_offsets": [0, end]}}
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size % 2 else size) + text + b"\0" * 64


HEADERS = st.tuples(
    st.sampled_from([3, 4, 2**31, 2**31 + 1, 2**62, 2**63 - 1]),
    st.sampled_from([0, 12, 64, 2**40, 2**63 - 1]),
    st.sampled_from(["F32", "F64", "BOOL", "F8_E5M2", "nothing"]),
).map(_header)

FOLDERS = st.one_of(
    st.tuples(st.sampled_from(["config.json", "model.safetensors"]), BYTES),
    st.tuples(st.just("entries"), st.deferred(lambda: entries(_config()))),
    st.tuples(st.just("entries"), st.deferred(lambda: entries({"quantizer": _config()["quantizer"]}))),
    st.tuples(st.just("tensors"), TENSORS),
    st.tuples(st.just("header"), HEADERS),
)


# Checkpoints


@cache
def _checkpoint() -> dict[str, Any]:
    model = small_model()
    return {
        "gmvq": {
            "format_version": 1,
            "model": json.dumps(describe_model(model)),
            "settings": json.dumps({"dim": 3}),
            "data": json.dumps({"path": "photos", "size": 8}),
            "batches": 3,
        },
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "global_step": 3,
    }


class Command:
    """A pickle that runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def run_checkpoint(case: tuple[str, Any], folder: Path) -> None:
    """Load a damaged .ckpt file."""
    name, damage = case
    file = folder / "last.ckpt"
    checkpoint = dict(_checkpoint())
    same = True
    if name == "entries":
        checkpoint = damage(checkpoint)
        same = checkpoint.get("gmvq") == _checkpoint()["gmvq"]
    elif name == "description":
        described = damage(json.loads(checkpoint["gmvq"]["model"]))
        same = described == json.loads(checkpoint["gmvq"]["model"])
        checkpoint["gmvq"] = {**checkpoint["gmvq"], "model": json.dumps(described)}
    elif name == "tensors":
        checkpoint["state_dict"] = damage(checkpoint["state_dict"])
        same = damage.kind != "half"
    elif name == "command":
        checkpoint["extra"] = Command(f"touch '{folder / 'ran'}'")
    if name == "pickle":
        file.write_bytes(pickle.dumps(checkpoint | {"extra": Command(f"touch '{folder / 'ran'}'")}))
    else:
        torch.save(checkpoint, file)
    if name == "bytes":
        file.write_bytes(damage(file.read_bytes()))
    try:
        model = load_model(file)
        open_model(file)
    finally:
        if (folder / "ran").exists():
            raise UnexpectedError("the file ran a command")
    _check_model(model, same=same)


CHECKPOINTS = st.one_of(
    st.tuples(st.just("bytes"), BYTES),
    st.tuples(st.just("bytes"), BYTES),
    st.tuples(st.just("entries"), st.deferred(lambda: entries({**_checkpoint(), "state_dict": {}}))),
    st.tuples(
        st.just("description"), st.deferred(lambda: entries(json.loads(_checkpoint()["gmvq"]["model"])))
    ),
    st.tuples(st.just("tensors"), TENSORS),
    st.tuples(st.sampled_from(["command", "pickle"]), st.none()),
)


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

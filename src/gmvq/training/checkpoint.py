"""Checkpoints from the outside: find, read and check one, and load the model in it wherever it lies."""

from __future__ import annotations

import difflib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import check_version
from ..files import PathLike
from ..models.autoencoder import VQAutoencoder
from ..models.hub import PREFIX, is_hub_name, resolve
from ..models.interface import networks_of
from ..models.pretrained import CONFIG, WEIGHTS, build_described, read_config
from ..models.weights import check_values, mismatches
from ..reading import check_plain, not_a_file, open_input, open_zip, parse_json
from .notes import check_notes

FORMAT_VERSION = 1
LAST = Path("checkpoints", "last.ckpt")
"""Where a run folder keeps its newest checkpoint."""

EXPORT = Path("model")
"""Where a run folder keeps the exported model."""


def load_model(path: PathLike, *, map_location: str | torch.device = "cpu") -> VQAutoencoder:
    """Load a trained tokenizer, in eval mode, from any of the places where one may lie.

    Args:
        path: a run folder, a folder written by ``save_pretrained``, a Lightning checkpoint (.ckpt), ``"builtin:NAME"``
            for a model of the package gmvq-models, or the name of a repository on the Hugging Face Hub,
            ``"owner/name"`` (``"hf:owner/name"`` where a local folder ``owner`` is in the way).
        map_location: the device to load to.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a checkpoint of this package, or a broken one.
        MissingExtraError: a Hub name without the package huggingface_hub, or a built-in model without gmvq-models.

    Example:
        >>> model = load_model("runs/photos")
        >>> tokens = model.encode(images)
    """
    found = find_model(path)
    if isinstance(found, Path) and found.is_file():
        return rebuild_model(read_checkpoint(found), found).to(map_location).eval()
    return VQAutoencoder.from_pretrained(found, map_location=map_location)


class Opened(NamedTuple):
    """A model in eval mode, what is known about its training, and its file or folder; None if Hub or built-in."""

    model: VQAutoencoder
    notes: dict[str, Any]
    path: Path | None


def open_model(path: PathLike, *, map_location: str | torch.device = "cpu") -> Opened:
    """As ``load_model``, and what is known about the training: ``data``, ``likelihood``, ``step``; {} if nothing."""
    found = find_model(path)
    if isinstance(found, Path) and found.is_file():
        checkpoint = read_checkpoint(found)
        model, notes = rebuild_model(checkpoint, found), _notes_of(checkpoint, found)
    else:
        folder = resolve(found)
        file = folder / CONFIG
        notes = check_notes(read_config(file, VQAutoencoder.__name__).get("metadata"), file)
        model = VQAutoencoder.from_pretrained(folder)
    return Opened(model.to(map_location).eval(), notes, found if isinstance(found, Path) else None)


def find_model(path: PathLike) -> Path | str:
    """Return what a user's path means: a model folder, a checkpoint file, or a built-in or Hub name (as str).

    Of a run folder's exported model and its last checkpoint the newer one counts.
    """
    name = os.fspath(path)
    if name.startswith("hf:"):
        return name.removeprefix("hf:")
    if name.startswith(PREFIX):
        return name
    here = Path(name).expanduser()
    if here.is_file():
        return here.parent if here.name in (CONFIG, WEIGHTS) else here
    if here.is_dir():
        places = (here / "last.ckpt", here / LAST, here / CONFIG, here / EXPORT / CONFIG)
        candidates = [file for file in places if file.is_file()]
        if not candidates:
            raise FileNotFoundError(
                f"{here} holds no model: expected a run folder (with {LAST} or {EXPORT}/), or a folder with "
                "config.json and model.safetensors"
            )
        newest = max(candidates, key=lambda file: file.stat().st_mtime_ns)
        return newest.parent if newest.name == CONFIG else newest
    if is_hub_name(name) and not here.parent.is_dir() and here.suffix != ".ckpt":
        return name
    if os.path.lexists(here):
        raise FileNotFoundError(f"{name!r} holds no model: {not_a_file(here)}")
    near = []
    if here.parent.is_dir():
        near = difflib.get_close_matches(here.name, [child.name for child in here.parent.iterdir()], n=1)
    hint = f"; did you mean {here.parent / near[0]}?" if near else ""
    raise FileNotFoundError(
        f"there is no {name!r} (looked in {Path.cwd()}){hint}; give a run folder, a model folder, a .ckpt file, "
        "builtin:NAME, or a Hub name owner/name"
    )


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """Read a .ckpt file without running any code in it, and check that it is one of this package's, and whole.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, cut short, damaged, or not written by this package.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}")
    size = check_plain(file)
    try:
        _check_archive(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=size > 0)
    except Exception as error:  # damaged files make the unpickler raise almost anything
        with open_input(file) as stream:
            archive = stream.read(2) == b"PK"
        what = "is cut short or damaged" if archive else "is not a PyTorch checkpoint"
        raise ValueError(
            f"{file} ({size:,} bytes) {what}; take another checkpoint of the run, or copy it again"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("gmvq"), dict):
        raise ValueError(
            f"{file} is a PyTorch file, but not a checkpoint written by gmvq fit: it lacks the entry 'gmvq'"
        )
    check_version(file, checkpoint["gmvq"].get("format_version"), FORMAT_VERSION)
    for name, kind in (("state_dict", dict), ("global_step", int)):
        if not isinstance(checkpoint.get(name), kind):
            raise ValueError(
                f"{file}: the entry {name!r} is missing or damaged; take another checkpoint of the run"
            )
    return checkpoint


def _check_archive(file: Path) -> None:
    """Compare every record with its CRC-32, which torch does not where it maps the file into memory."""
    with open_zip(file) as (archive, _):
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("torch.save does not compress")  # nor do its files unpack to more than they are
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the record {damaged} is damaged")


def rebuild_model(checkpoint: Mapping[str, Any], path: PathLike) -> VQAutoencoder:
    """Build the model described in a checkpoint and fill in its weights."""
    config = read_entry(checkpoint, "model", path)
    if not isinstance(config, dict) or not {"networks", "quantizer", "layout"} <= config.keys():
        raise ValueError(
            f"{path}: the entry 'model' lacks networks, quantizer or layout; take another checkpoint"
        )
    if config["networks"] is None:
        raise ValueError(
            f"{path}: the model has networks of its own, of which only the weights are stored; build it as it was "
            "and use its load_state_dict"
        )
    return build_described(VQAutoencoder, config, weights_of(checkpoint, "model."), path, path)


def weights_of(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names begin with ``prefix``, by the rest of their names."""
    found = {str(name): value for name, value in checkpoint["state_dict"].items()}
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def read_entry(checkpoint: Mapping[str, Any], name: str, path: PathLike) -> Any:
    """Return one of the descriptions that a checkpoint holds as JSON: ``model``, ``settings`` or ``data``."""
    try:
        return parse_json(checkpoint["gmvq"][name])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the entry {name!r} is missing or damaged; take another checkpoint of the run"
        ) from error


def entry_of(module: Any, name: str, description: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What a checkpoint of a module holds beside tensors, as JSON: the file stays loadable with weights_only=True."""
    data = getattr(getattr(module.trainer, "datamodule", None), "settings", None)
    texts = {name: description, "settings": module.settings, "data": data}
    return {
        "format_version": FORMAT_VERSION,
        **{key: json.dumps(text) for key, text in texts.items()},
        **more,
    }


def describe_model(model: VQAutoencoder) -> dict[str, Any]:
    """Return what ``rebuild_model`` needs beside the weights; ``networks`` is None where they are a user's own."""
    return {
        "networks": networks_of(model) or None,
        "quantizer": model.quantizer.to_config(),
        "layout": model.layout,
    }


def _notes_of(checkpoint: Mapping[str, Any], path: PathLike) -> dict[str, Any]:
    data, settings = (read_entry(checkpoint, name, path) for name in ("data", "settings"))
    scale = weights_of(checkpoint, "likelihood.")
    notes: dict[str, Any] = {"step": checkpoint["global_step"]}
    if isinstance(data, dict):
        notes["data"] = data
    if isinstance(settings, dict) and {"log_scale", "observations"} <= scale.keys():
        notes["likelihood"] = likelihood_notes(settings, scale)
    return check_notes(notes, path)


def likelihood_notes(settings: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and stored scale of a module's likelihood, fit for JSON."""
    return {
        "kind": settings.get("likelihood"),
        "scale": settings.get("likelihood_scale"),
        "log_scale": float(state["log_scale"]),
        "observations": int(state["observations"]),
    }


def check_fits(checkpoint: Mapping[str, Any], own: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Raise unless the tensors of a checkpoint are those of a module with these settings."""
    if "gmvq" not in checkpoint:
        raise ValueError("this is not a checkpoint written by gmvq fit: it lacks the entry 'gmvq'")
    problems = mismatches(checkpoint["state_dict"], own)
    if not problems:
        check_values(checkpoint["state_dict"], "the checkpoint")
        return
    then = read_entry(checkpoint, "settings", "the checkpoint")
    changed = [
        f"model.{key} was {then[key]!r} and is now {settings[key]!r}"
        for key in settings
        if key in then and then[key] != settings[key]
    ]
    raise ValueError(
        "the checkpoint is of another configuration: "
        + ("; ".join(changed) or "no setting differs, so the networks themselves do")
        + f". Its tensors do not fit: {'; '.join(problems[:3])}"
        + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    )

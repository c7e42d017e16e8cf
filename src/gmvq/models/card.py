"""The model card: what a tokenizer is, how good it is and how to use it, for the front page of a Hub repository.

``huggingface_hub`` writes the front matter and fills in the template, whose text is in ``templates``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..environment import versions
from ..errors import how_to_install, require
from ..quantizers import PyramidGMVQ
from ..reading import is_number, is_remote
from ..screen import markdown
from .interface import code_sizes, networks_of, sizes_text
from .weights import model_digest

if TYPE_CHECKING:
    from .autoencoder import VQAutoencoder

#: A card with this line is replaced by the next push, one without it is its owner's.
MARKER = "<!-- Written by gmvq. Delete this line, and the next push leaves your text alone. -->"
#: Entries of the metadata that name files or folders.
_PLACES = ("path", "tokenizer", "tokens", "data", "out", "ckpt_path", "checkpoint")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_TAGS = ("gmvq", "vector-quantization", "vq-vae", "pytorch")
#: key of the evaluation -> label, unit, format.
_METRICS = {
    "psnr": ("PSNR of the mean squared error", "dB", ".2f"),
    "mse": ("mean squared error, values in [0, 1]", "", ".3e"),
    "ssim": ("SSIM", "", ".4f"),
    "snr": ("signal-to-noise ratio", "dB", ".2f"),
    "perplexity": ("perplexity of the codes", "", ",.1f"),
    "usage": ("codes used", "", ".1%"),
    "bits_per_pixel_entropy": ("rate, entropy coded", "bits/pixel", ".4f"),
}


def model_card(
    model: VQAutoencoder,
    *,
    repo_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """Write the README.md of a model: YAML front matter, configuration, figures, usage, versions.

    Nothing is invented: figures come from ``metadata``, and without ``license`` the card says that its author has
    stated none.

    Args:
        model: the model.
        repo_id: ``"owner/name"``, for the title and the usage.
        metadata: as in ``save_pretrained``; ``data``, ``step`` and ``metrics`` of ``gmvq fit`` are understood.
        license: an identifier of the Hub, such as ``"apache-2.0"`` or ``"cc-by-4.0"``, of the weights.

    Raises:
        MissingExtraError: the package huggingface_hub or Jinja2 is absent.

    Example:
        >>> print(model_card(model, repo_id="me/tokenizer", license="cc-by-4.0"))
        ---
        ...
        # tokenizer
        ...
    """
    notes = dict(metadata or {})
    measured = notes.get("metrics")
    found = measured.items() if isinstance(measured, Mapping) else ()
    metrics = {k: v for k, v in found if k in _METRICS and is_number(v)}
    name = (repo_id or "gmvq tokenizer").rsplit("/", 1)[-1]
    networks = networks_of(model)
    kind = "signal" if networks.get("spatial_dims") == 1 else "image"
    sizes = code_sizes(model.quantizer)
    counts = [1.0] * len(sizes)
    if isinstance(model.quantizer, PyramidGMVQ):
        area = [1 << (len(sizes) - 1)] * networks.get("spatial_dims", 2)
        counts = [count / math.prod(area) for count in model.quantizer.codes_per_item(area)]
    codes = sum(counts)
    axes = networks.get("spatial_dims", 0)
    return fill_card(
        "model_card.md.j2",
        {
            "license": license,
            "tags": [*_TAGS, f"{kind}-tokenizer"],
            "metrics": list(metrics) or None,
            "eval_results": _results(metrics, _data_set(notes), kind) or None,
            "model_name": name if metrics else None,
        },
        name=markdown(name),
        repo_id=repo_id,
        kind=kind,
        codes=codes,
        mixture=type(model.quantizer).__module__.startswith("gmvq.quantizers"),
        quantizer=model.quantizer,
        size=sizes_text(sizes),
        rate=f"{sum(n * math.log2(k) for n, k in zip(counts, sizes, strict=True)) / networks['downsample'] ** axes:.4g}"
        if axes
        else "",
        parameters=f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        training={key: markdown(value) for key, value in _training(notes, metrics).items()},
        networks=networks,
        where=repo_id or "path/to/this/folder",
        shape=[1, networks.get("channels", 3), *([8 * networks["downsample"]] * axes if axes else (64, 64))],
        digest=model_digest(model),
    )


def fill_card(template: str, data: dict[str, Any], **values: Any) -> str:
    """Fill in a template of this room with the front matter ``data`` and other values.

    Raises:
        MissingExtraError: the package huggingface_hub or Jinja2 is absent.
    """
    hub = require("huggingface_hub", "train")
    require("jinja2", "train")
    return hub.ModelCard.from_template(
        hub.ModelCardData(library_name="gmvq", **data),
        template_path=str(Path(__file__).parent / "templates" / template),
        marker=MARKER,
        card_data_license=data["license"],
        install=how_to_install("prior" if template.startswith("prior") else "train"),
        versions=versions("torch", "python"),
        **values,
    ).content


def public_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata fit for publication: every local path in it becomes its last part, however deep it stands."""
    return {key: _public(value, key) for key, value in (metadata or {}).items()}


def _public(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _public(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_public(inner, key) for inner in value]
    # Places may be relative; elsewhere a text with a slash may be anything, and an absolute path is one for sure.
    if isinstance(value, str) and (
        key in _PLACES or PurePosixPath(value).is_absolute() or _WINDOWS.match(value)
    ):
        return _without_folders(value)
    return value


def _without_folders(path: str) -> str:
    kinds: tuple[type[PurePath], ...] = (PurePosixPath, PureWindowsPath)
    local = path.startswith(("~", ".")) or any(kind(path).is_absolute() for kind in kinds)
    if is_remote(path) or not (local or "\\" in path or "/" in path):
        return path
    return PureWindowsPath(path).name or path


def _results(metrics: Mapping[str, Any], data_set: str, kind: str) -> list[Any]:
    result = require("huggingface_hub", "train").EvalResult
    task = "image-to-image" if kind == "image" else "audio-to-audio"
    same = {
        "task_type": task,
        "task_name": "reconstruction",
        "dataset_type": f"{kind}s",
        "dataset_name": data_set,
    }
    return [
        result(metric_type=key, metric_value=value, metric_name=_METRICS[key][0], **same)
        for key, value in metrics.items()
    ]


def _training(notes: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    data = notes.get("data")
    if isinstance(data, Mapping) and data.get("path"):
        size = f" at {data['size']} x {data['size']} pixels" if data.get("size") else ""
        if data.get("value_range"):  # of signals
            rate = f" at {data['sample_rate']} Hz" if data.get("sample_rate") else ""
            size = f"{rate} in windows of {data.get('size')} samples"
        rows["trained on"] = f"{_without_folders(str(data['path']))}{size}"
    if isinstance(notes.get("step"), int):
        rows["optimizer steps"] = f"{notes['step']:,}"
    if metrics:
        rows["measured on"] = _data_set(notes)
    for key, value in metrics.items():
        label, unit, style = _METRICS[key]
        if isinstance(data, Mapping) and data.get("value_range"):
            unit = unit.replace("pixel", "sample")
        rows[label] = f"{value:{style}} {unit}".strip()
    return rows


def _data_set(notes: Mapping[str, Any]) -> str:
    data, metrics = notes.get("data"), notes.get("metrics")
    named = metrics.get("dataset") if isinstance(metrics, Mapping) else None
    if not named and isinstance(data, Mapping):
        named = data.get("test") or _without_folders(str(data.get("path") or ""))
    return str(named or "not recorded")

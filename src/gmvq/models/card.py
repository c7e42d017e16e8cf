"""The model card: what a tokenizer is, how good it is and how to use it, for the front page of a Hub repository."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import torch

from .digest import model_digest

if TYPE_CHECKING:
    from .autoencoder import VQAutoencoder

#: A card with this line is replaced by the next push, one without it is its owner's.
MARKER = "<!-- Written by gmvq. Delete this line, and the next push leaves your text alone. -->"
_TAGS = ("gmvq", "vector-quantization", "vq-vae", "pytorch")
_MIXTURE = " The codebook is a Gaussian mixture, trained on an evidence bound by the Python package `gmvq`."
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

    Example:
        >>> print(model_card(model, repo_id="me/tokenizer", license="cc-by-4.0"))
    """
    notes = dict(metadata or {})
    measured = notes.get("metrics")
    metrics = {
        key: value
        for key, value in (measured.items() if isinstance(measured, Mapping) else ())
        if key in _METRICS and isinstance(value, int | float) and math.isfinite(value)
    }
    name = (repo_id or "gmvq tokenizer").rsplit("/", 1)[-1]
    quantizer = model.quantizer
    codes = math.prod(getattr(quantizer, "index_shape", ()))
    several = f", {codes} for each position" if codes > 1 else ""
    kind = "signal" if _networks(model).get("spatial_dims") == 1 else "image"
    sections = [
        _front_matter(name, metrics, _data_set(notes), license, kind),
        MARKER,
        f"# {name}",
        f"A tokenizer of {kind}s: an encoder, a codebook of {quantizer.codebook_size:,} codewords{several}, a decoder."
        f"{_MIXTURE if type(quantizer).__module__.startswith('gmvq.quantizers') else ''} `encode` turns {kind}s into "
        f"indices, `decode` turns indices into {kind}s.",
        "## Configuration\n\n" + _table(_configuration(model, codes)),
        "## Training and figures\n\n" + _training(notes, metrics),
        "## Usage\n\n" + _usage(model, repo_id),
        "## Licence\n\n" + _licence(license),
        f"## Versions\n\ntorch {torch.__version__}, Python {platform.python_version()}; model `{model_digest(model)}`.",
    ]
    return "\n\n".join(sections) + "\n"


def public_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata fit for publication: a local path of data, tokens or a tokenizer becomes its last part."""
    notes = dict(metadata or {})
    for key, value in notes.items():
        if isinstance(value, Mapping) and isinstance(value.get("path"), str):
            notes[key] = {**value, "path": _without_folders(value["path"])}
    if isinstance(notes.get("tokenizer"), str):
        notes["tokenizer"] = _without_folders(notes["tokenizer"])
    return notes


def _without_folders(path: str) -> str:
    kinds: tuple[type[PurePath], ...] = (PurePosixPath, PureWindowsPath)
    local = path.startswith(("~", ".")) or any(kind(path).is_absolute() for kind in kinds)
    if path.startswith("hf:") or not (local or "\\" in path or "/" in path):
        return path
    return PureWindowsPath(path).name or path


def _front_matter(
    name: str, metrics: Mapping[str, Any], data_set: str, license: str | None, kind: str
) -> str:
    """YAML whose strings are written as JSON, which is YAML too."""
    lines = ["---", "library_name: gmvq", "tags:", *(f"- {tag}" for tag in (*_TAGS, f"{kind}-tokenizer"))]
    if license:
        lines.insert(1, f"license: {json.dumps(license)}")
    if metrics:
        lines += ["metrics:", *(f"- {key}" for key in metrics), "model-index:"]
        lines += [f"- name: {json.dumps(name)}", "  results:"]
        task = "image-to-image" if kind == "image" else "audio-to-audio"
        lines += [f'  - task: {{type: "{task}", name: "reconstruction"}}']
        lines += [f'    dataset: {{name: {json.dumps(data_set)}, type: "{kind}s"}}', "    metrics:"]
        lines += [
            f"    - {{type: {key}, value: {json.dumps(value)}, name: {json.dumps(_METRICS[key][0])}}}"
            for key, value in metrics.items()
        ]
    return "\n".join([*lines, "---"])


def _configuration(model: VQAutoencoder, codes: int) -> dict[str, str]:
    quantizer = model.quantizer
    config = _networks(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = quantizer.codebook_size
    rows = {
        "network": f"{config.get('name', 'custom')}, {parameters / 1e6:.2f} M parameters",
        "quantizer": type(quantizer).__name__,
        "codebook size K": f"{size:,}",
        "features per codeword": f"{quantizer.dim}",
    }
    if codes > 1:
        rows["codes per position"] = f"{codes}"
    if config:
        step, axes = config["downsample"], config["spatial_dims"]
        rate = codes * math.log2(size) / step**axes if size > 1 else 0.0
        rows["channels"] = str(config["channels"])
        unit = "sample" if axes == 1 else "pixel"
        rows["one position for"] = f"{' x '.join([str(step)] * axes)} {unit}s"
        if axes == 1:
            rows["lengths"] = f"any multiple of {step}"
        else:
            rows["image sizes"] = f"any with sides that are multiples of {step}"
        rows["rate, codes of one length"] = f"{rate:.4g} bits/{unit}"
    return rows


def _training(notes: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
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
        rows[label] = f"{value:{style}} {unit}".strip()
    if not rows:
        return "Nothing is recorded about the training of this model."
    return _table(rows)


def _usage(model: VQAutoencoder, repo_id: str | None) -> str:
    config = _networks(model)
    where = json.dumps(repo_id or "path/to/this/folder")
    shape = (
        ", ".join(map(str, (1, config["channels"], *[8 * config["downsample"]] * config["spatial_dims"])))
        if (config)
        else "1, 3, 64, 64"
    )
    passed = "" if config else ", encoder=encoder, decoder=decoder"
    lines = [
        "```sh",
        "pip install 'gmvq[train]'",
        "```",
        "",
        "```python",
        "import torch",
        "from gmvq import VQAutoencoder",
        "",
        *([] if config else ["# encoder and decoder: the networks, built as they were in training"]),
        f"model = VQAutoencoder.from_pretrained({where}{passed})",
        f"images = torch.rand({shape})  # yours, with values in [0, 1]",
        "indices = model.encode(images)",
        "restored = model.decode(indices).clamp(0, 1)",
        "```",
    ]
    if config and config["spatial_dims"] == 2 and repo_id:
        lines += ["", "```sh", f"gmvq reconstruct {repo_id} photo.jpg --out restored", "```"]
    return "\n".join(lines)


def _licence(license: str | None) -> str:
    if license:
        return f"The weights are under the licence `{license}`, as stated by their author."
    return "Their author has stated no licence for these weights. (gmvq itself is under Apache-2.0.)"


def _networks(model: VQAutoencoder) -> dict[str, Any]:
    """Arguments of ``build_networks``; {} for other networks."""
    config = getattr(model.encoder, "config", None)
    return config if isinstance(config, dict) and config == getattr(model.decoder, "config", None) else {}


def _data_set(notes: Mapping[str, Any]) -> str:
    data = notes.get("data")
    metrics = notes.get("metrics")
    named = metrics.get("dataset") if isinstance(metrics, Mapping) else None
    if not named and isinstance(data, Mapping):
        named = data.get("test") or _without_folders(str(data.get("path") or ""))
    return str(named or "not recorded")


def _table(rows: Mapping[str, str]) -> str:
    cells = [f"| {key} | {value.replace('|', '/')} |" for key, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *cells])

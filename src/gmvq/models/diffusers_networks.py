"""Encoder and decoder of diffusers' ``AutoencoderKL`` and ``VQModel``, as networks of a ``VQAutoencoder``.

Images are in [-1, 1] there and in [0, 1] here (and in Amused's ``VQModel``, known by ``lookup_from_codebook``). Latents
are those that their decoder reads, without ``scaling_factor``; of ``AutoencoderKL`` they are the mean. What stands
between encoder and decoder there, a Gaussian or a codebook, is left out.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import as_value_error, require
from ..files import PathLike
from ..reading import read_json
from .nets import Decoder, Encoder, build_networks, check_input
from .weights import build_filled, read_weights

CLASSES = ("AutoencoderKL", "VQModel")
WEIGHTS = "diffusion_pytorch_model.safetensors"
#: Most levels and blocks of a network; the largest known have 7 and 4.
_MOST = 32
#: Blocks of which the two are built; others of diffusers take more than an image.
_BLOCKS = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"}
#: Entries of a configuration that the networks do not depend on.
_UNUSED = ("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")
#: What an attention's tensors were called in older files.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersEncoder(nn.Module):
    """Map images (B, channels, H, W) in [0, 1] to latents (B, dim, H / downsample, W / downsample)."""

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.quant_conv = model.encoder, model.quant_conv

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.config)
        h = self.encoder(2 * x - 1 if _signed(self.config) else x)
        h = h if self.quant_conv is None else self.quant_conv(h)
        # Behind the means AutoencoderKL has log-variances.
        return h[:, : self.config["dim"]]


class DiffusersDecoder(nn.Module):
    """Map latents (B, dim, h, w) to images (B, channels, h * downsample, w * downsample) in [0, 1], unclamped."""

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.decoder, self.post_quant_conv = model.decoder, model.post_quant_conv

    def forward(self, latents: Tensor) -> Tensor:
        h = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        x = self.decoder(h, latents if self.config["options"].get("norm_type") == "spatial" else None)
        return x / 2 + 0.5 if _signed(self.config) else x


def networks_from(
    name: str | Mapping[str, Any] = "tiny", *, options: Mapping[str, Any] | None = None, **sizes: int
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder by a name of ``build_networks``, or by the configuration of a diffusers model.

    ``name``, or ``options``, is such a ``config.json``; ``sizes`` (channels, dim, downsample, spatial_dims) have to be
    its own.
    """
    options = options if isinstance(name, str) else name
    if options is None:
        return build_networks(str(name), **sizes)
    config = config_of(options)
    wrong = {key: value for key, value in sizes.items() if config[key] != value}
    if wrong:
        named = ", ".join(f"{key}={config[key]}, not {value}" for key, value in wrong.items())
        raise ValueError(f"this {config['name']} has {named}; set them to what it has")
    model = _build(config)
    return DiffusersEncoder(model, config), DiffusersDecoder(model, config)


def is_own(model: Any) -> bool:
    """Whether both networks of a model are of classes that ``networks_from`` builds."""
    return type(model.encoder) in (Encoder, DiffusersEncoder) and type(model.decoder) in (
        Decoder,
        DiffusersDecoder,
    )


def config_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the networks of a diffusers configuration take and put out, as ``Encoder.config`` has it."""
    kind = _class_of(options)
    signature = inspect.signature(kind.__init__).parameters
    known = {name: options.get(name, p.default) for name, p in signature.items() if name != "self"}
    _check_entries(known, signature)
    blocks, layers = known["block_out_channels"], known["layers_per_block"]
    down, up = known["down_block_types"], known["up_block_types"]
    if max(len(blocks), layers) > _MOST:
        raise ValueError(
            f"expected at most {_MOST} levels, of 1 to {_MOST} layers, got {len(blocks)} and {layers}"
        )
    if not 0 < len(blocks) == len(down) == len(up) or not _BLOCKS.issuperset((*down, *up)):
        raise ValueError(
            f"expected one block of {', '.join(sorted(_BLOCKS))} for each of the {len(blocks)} block_out_channels, "
            f"got {', '.join((*down, *up))}"
        )
    if known["in_channels"] != known["out_channels"]:
        raise ValueError(
            f"expected a model whose images go out as they come in, got in_channels={known['in_channels']} and "
            f"out_channels={known['out_channels']}"
        )
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
    return {
        "name": kind.__name__,
        "channels": known["in_channels"],
        "dim": known.get("vq_embed_dim") or known["latent_channels"],
        "downsample": 2 ** (len(blocks) - 1),
        "spatial_dims": 2,
        "options": {"_class_name": kind.__name__, **plain},
    }


def diffusers_config(folder: Path) -> dict[str, Any] | None:
    """The configuration in a folder written by a diffusers model; None for any other folder."""
    if (folder / "model_index.json").is_file():
        inner = [name for name in ("vae", "vqvae", "movq") if (folder / name / "config.json").is_file()]
        raise ValueError(
            f"{folder} holds a whole diffusers pipeline; give the folder of its autoencoder: "
            f"{folder / (inner[0] if inner else 'vae')}"
        )
    file = folder / "config.json"
    try:
        options = read_json(file) if file.is_file() else None
    # Said in gmvq's own words by who reads it as a model of gmvq.
    except ValueError:
        return None
    if not isinstance(options, dict) or "_class_name" not in options:
        return None
    with as_value_error(str(file), ValueError, TypeError):
        return config_of(options)


def read_diffusers(path: PathLike) -> tuple[nn.Module, nn.Module]:
    """Trained encoder and decoder of diffusers' ``AutoencoderKL`` or ``VQModel``, for a ``VQAutoencoder``.

    Images (B, C, H, W) in [0, 1] to latents (B, dim, H / f, W / f) and back, f = 2^(levels - 1). Latents are in the
    units in which the decoder reads them, without ``scaling_factor``; of ``AutoencoderKL`` they are the mean.

    Args:
        path: a folder written by ``save_pretrained`` of diffusers, of which the safetensors alone are read.

    Returns:
        Encoder and decoder in float32, in eval mode.

    Raises:
        FileNotFoundError: there are no weights, or they are pickled.
        ValueError: no folder of these two classes, or weights that do not fit its configuration.
        MissingExtraError: the package diffusers is absent.

    Example:
        >>> from diffusers import AutoencoderKL
        >>> AutoencoderKL().save_pretrained("vae")
        >>> encoder, decoder = read_diffusers("vae")
        >>> tokenizer = VQAutoencoder(encoder, GaussianMixtureVQ(dim=4, codebook_size=1024), decoder)
    """
    folder = Path(path)
    config = diffusers_config(folder)
    if config is None:
        raise ValueError(f"{folder} is no folder of a diffusers {' or '.join(CLASSES)}")
    file = folder / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; pickled weights (.bin) are not read: save the model again with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    weights = {_renamed(name): value for name, value in read_weights(file).items()}
    model = build_filled(lambda: _build(config), weights, folder, mixed=True).float()
    return DiffusersEncoder(model, config).eval(), DiffusersDecoder(model, config).eval()


def _build(config: Mapping[str, Any]) -> Any:
    """A diffusers model by what ``config_of`` found."""
    options = {name: value for name, value in config["options"].items() if name != "_class_name"}
    kind = _class_of(config["options"])
    # Errors of diffusers and torch, for sizes that do not go together.
    with as_value_error(f"no {config['name']} can be built with its configuration", Exception):
        return kind(**options)


def _check_entries(known: Mapping[str, Any], signature: Mapping[str, inspect.Parameter]) -> None:
    """Raise ValueError if an entry has another type than its default, or is a size below 1."""

    def fits(value: Any, default: Any) -> bool:
        if isinstance(default, tuple):
            return isinstance(value, list | tuple) and all(fits(entry, default[0]) for entry in value)
        if default is None:
            return value is None or fits(value, 1)
        return type(value) is type(default) and not (type(value) is int and value < 1)

    for name, value in known.items():
        default = signature[name].default
        if name not in _UNUSED and not fits(value, default):
            raise ValueError(f"the entry {name!r} cannot be {value!r:.80}; the default is {default!r}")


def _renamed(name: str) -> str:
    """The name of a tensor in today's diffusers."""
    return re.sub(
        r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)", lambda found: _OLD[found[0]], name
    )


def _signed(config: Mapping[str, Any]) -> bool:
    return not config["options"].get("lookup_from_codebook", False)


def _class_of(options: Mapping[str, Any]) -> Any:
    name = options.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"expected a diffusers model of class {' or '.join(CLASSES)}, got {name!r}")
    return getattr(require("diffusers", "diffusers"), name)

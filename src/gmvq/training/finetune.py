"""Begin from a trained tokenizer or autoencoder: its networks, its codebook kept or made anew; freeze parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import check_choice
from ..evaluation.batches import image_batches
from ..files import PathLike
from ..models.autoencoder import VQAutoencoder
from ..models.diffusers_networks import WEIGHTS as THEIR_WEIGHTS
from ..models.diffusers_networks import diffusers_config, read_diffusers
from ..models.hub import resolve
from ..models.interface import code_sizes, decode_latents, device_of, evaluating, sizes_text
from ..models.pretrained import CONFIG, WEIGHTS, read_config
from ..models.weights import check_values, copy_weights, mismatches
from ..quantizers import GaussianMixtureVQ
from ..quantizers.resize import resize_codebook
from .checkpoint import find_model, load_model, read_checkpoint, read_entry
from .data import ImageDataModule
from .module import TokenizerModule

PARTS = ("encoder", "decoder", "quantizer")
#: Arguments of ``TokenizerModule`` that say which model it is, and not how it is trained.
_OF_THE_MODEL = (
    *("network", "channels", "downsample", "dim", "spatial_dims", "codebook_size", "codebook_dim"),
    *("num_quantizers", "groups", "scales", "ragged", "shared_codebook", "level_dropout", "min_levels"),
    *("beam", "mixture_weights", "standardize", "precision", "variance"),
)
#: Latents per code that the new codebook is fitted to, and how many there are at least.
_PER_CODE, _LEAST = 32, 1 << 13


def options_of(path: PathLike) -> list[str]:
    """The options of ``gmvq fit`` that build the same model, such as ``--model.dim=4``.

    Of a model whose training is not known they are those of its networks and the number of its codes.

    ``path`` and errors are as in ``load_model``.
    """
    settings = _settings_of(path)
    named = {f"model.{name}": settings[name] for name in _OF_THE_MODEL if settings.get(name) is not None}
    found: list[str] = []
    for name, value in named.items():
        options = {name: value}
        if isinstance(value, dict) and name != "model.network":
            options = {f"{name}.{key}": entry for key, entry in value.items()}
        for option, entry in options.items():
            found.append(f"--{option}={entry if isinstance(entry, str) else json.dumps(entry)}")
    return found


def _settings_of(path: PathLike) -> dict[str, Any]:
    folder = _diffusers_folder(path)
    if folder is not None:
        config = diffusers_config(folder) or {}
        return {
            **config,
            "network": config["options"],
            "codebook_size": config["options"].get("num_vq_embeddings"),
        }
    found = find_model(path)
    if not isinstance(found, str) and found.is_file():
        settings = read_entry(read_checkpoint(found), "settings", found)
        return settings if isinstance(settings, dict) else {}
    config = read_config(resolve(found) / CONFIG, VQAutoencoder.__name__)
    settings = (config.get("metadata") or {}).get("settings")
    networks = config["networks"] if isinstance(config["networks"], dict) else {}
    if isinstance(settings, dict):
        return settings
    size = config["quantizer"].get("codebook_size") if isinstance(config["quantizer"], dict) else None
    more = {"network": networks.get("options") or networks.get("name"), "codebook_size": size}
    return {**networks, **{name: value for name, value in more.items() if value is not None}}


def begin_from(
    module: TokenizerModule,
    data: ImageDataModule,
    path: PathLike,
    codebook: Literal["keep", "new"] = "keep",
) -> str:
    """Copy a trained model into a module that has not been trained yet; return what was done, in a line.

    The networks are copied as they are. The quantizer is copied too where it has as many codes; otherwise its codes are
    split or merged until there are as many as the module has (``resize_codebook``), on latents of the new ``data``.
    With ``codebook`` of ``"new"`` codes, mean, scale and precision start from such latents, by k-means; a second line
    then tells the error without codes on validation images.

    ``path`` is as in ``load_model``, or of a diffusers ``AutoencoderKL`` or ``VQModel``.
    """
    check_choice("init_codebook", codebook, ("keep", "new"))
    encoder, decoder, then = _parts(path)
    model = module.model
    _copy(encoder, model.encoder, f"the encoder of {path}")
    _copy(decoder, model.decoder, f"the decoder of {path}")
    now: Any = model.quantizer
    if codebook == "new":
        now.init_codebook(_latents(model, data))
        text = f"networks of {path}, and a new codebook of {sizes_text(code_sizes(now))} codes"
        error = error_without_codes(model, data.dataset("validation"))
        return f"{text}\nMSE without codes, on validation images: {error:.3g}"
    if then is None:
        raise ValueError(f"a codebook of diffusers is not kept; take --init_codebook new for {path}")
    text = f"networks and codebook of {path}"
    if code_sizes(then) != code_sizes(now):
        if not isinstance(then, GaussianMixtureVQ):
            raise ValueError(
                f"{type(then).__name__} of {sizes_text(code_sizes(then))} codes cannot be resized to "
                f"{sizes_text(code_sizes(now))}; keep model.codebook_size, or take --init_codebook new"
            )
        resized = resize_codebook(then, _latents(model, data), now.codebook_size)
        text += f", {then.codebook_size:,} codes made {now.codebook_size:,}"
        then = resized.layer
    _copy(then, now, f"the quantizer of {path}")
    return text


@torch.no_grad()
def error_without_codes(model: VQAutoencoder, images: Any) -> float:
    """Mean squared error of decoder(encoder(x)), clamped to [0, 1], over a data set: what is lost without codes."""
    total = count = 0.0
    with evaluating(model):
        for x in image_batches(images, batch_size=64, device=device_of(model)):
            error = decode_latents(model, model._latents(x)).float().clamp(0.0, 1.0) - x
            total, count = total + float(error.square().sum()), count + error.numel()
    return total / count


def freeze(module: TokenizerModule, parts: Sequence[str]) -> None:
    """Let some of encoder, decoder and quantizer stand still: no gradients, and no M-steps of the quantizer."""
    for name in parts:
        check_choice("freeze", name, PARTS)
    if set(parts) == set(PARTS):
        raise ValueError("freeze names all parts, so there is nothing to train; name one or two")
    if "decoder" in parts and module.decoder_after:
        raise ValueError(
            "freeze names the decoder, which model.decoder_after lets learn later; leave out one of them"
        )
    for name in parts:
        getattr(module.model, name).requires_grad_(False)


def _parts(path: PathLike) -> tuple[nn.Module, nn.Module, Any]:
    """Encoder, decoder and quantizer of a trained model; the quantizer is None for a model of diffusers."""
    folder = _diffusers_folder(path)
    if folder is not None:
        return *read_diffusers(folder), None
    source = load_model(path)
    standardized = [q for q in source.modules() if getattr(q, "units", None) == "standardized"]
    if standardized:
        raise ValueError(
            f'the decoder of {path} reads standardised latents (units="standardized"), which a new run does not give '
            'it; train that model again with units="latents", the default'
        )
    return source.encoder, source.decoder, source.quantizer


def _diffusers_folder(path: PathLike) -> Path | None:
    """The local folder of a diffusers model, downloaded if it has to be; None for a model of gmvq."""
    here = Path(path).expanduser()
    found = here if (here / "model_index.json").is_file() else find_model(path)
    if isinstance(found, Path) and found.is_file():
        return None
    folder = resolve(found, files=(CONFIG, WEIGHTS, THEIR_WEIGHTS))
    return None if diffusers_config(folder) is None else folder


def _copy(source: nn.Module, target: nn.Module, what: str) -> None:
    weights = source.state_dict()
    problems = mismatches(weights, target.state_dict())
    if problems:
        raise ValueError(
            f"{what} does not fit this configuration: {'; '.join(problems[:3])}; leave the model.* options that say "
            "which model it is to the trained one"
        )
    check_values(weights, what)
    copy_weights(target, weights)


@torch.no_grad()
def _latents(model: VQAutoencoder, data: ImageDataModule) -> Tensor:
    """Latents of evenly spaced training images, (N, D), some dozens for each code."""
    images = data.dataset("train")
    wanted = max(_LEAST, _PER_CODE * model.quantizer.codebook_size)
    with evaluating(model):
        first = model._latents(images[0][None]).flatten(0, -2)
        count = min(len(images), -(-wanted // len(first)))
        chosen = torch.utils.data.Subset(images, torch.linspace(0, len(images) - 1, count).long().tolist())
        batches = image_batches(chosen, batch_size=64, device=first.device)
        return torch.cat([model._latents(batch).flatten(0, -2) for batch in batches])

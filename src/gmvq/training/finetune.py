"""Begin from a trained tokenizer: its networks, and its codebook kept, grown, shrunk or made anew; freeze parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import check_choice
from ..evaluation.batches import image_batches
from ..files import PathLike
from ..models.autoencoder import VQAutoencoder
from ..models.interface import evaluating
from ..models.pretrained import CONFIG, read_config
from ..models.weights import check_values, fill, mismatches
from ..quantizers import GaussianMixtureVQ
from ..quantizers.resize import resize_codebook
from .checkpoint import find_model, load_model, read_checkpoint, read_entry
from .data import ImageDataModule
from .module import TokenizerModule

PARTS = ("encoder", "decoder", "quantizer")
Part = Literal["encoder", "decoder", "quantizer"]
#: Arguments of ``TokenizerModule`` that say which model it is, and not how it is trained.
_OF_THE_MODEL = (
    *("network", "channels", "downsample", "dim", "spatial_dims", "codebook_size", "codebook_dim"),
    *(
        "num_quantizers",
        "groups",
        "scales",
        "shared_codebook",
        "level_dropout",
        "mixture_weights",
        "standardize",
    ),
    *("precision", "variance"),
)
#: Latents per code that the new codebook is fitted to, and how many there are at least.
_PER_CODE, _LEAST = 32, 1 << 13


def options_of(path: PathLike) -> list[str]:
    """The options of ``gmvq fit`` that build the same model, such as ``--model.dim=4``.

    Of a model whose training is not known they are those of its networks and the number of its codes.

    Args:
        path: as in ``load_model``.

    Raises:
        FileNotFoundError, ValueError: as ``load_model``.
    """
    settings = _settings_of(path)
    named = {f"model.{name}": settings[name] for name in _OF_THE_MODEL if settings.get(name) is not None}
    found: list[str] = []
    for name, value in named.items():
        fields = value.items() if isinstance(value, dict) else [("", value)]
        for field, entry in fields:
            text = str(entry).lower() if isinstance(entry, bool) else "null" if entry is None else entry
            found.append(f"--{name}.{field}={text}" if field else f"--{name}={text}")
    return found


def _settings_of(path: PathLike) -> dict[str, Any]:
    from ..models.hub import resolve

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
    more = {"network": networks.get("name"), "codebook_size": size}
    return {**networks, **{name: value for name, value in more.items() if value is not None}}


def begin_from(
    module: TokenizerModule,
    data: ImageDataModule,
    path: PathLike,
    codebook: Literal["keep", "new"] = "keep",
) -> str:
    """Copy a trained tokenizer into a module that has not been trained yet; return what was done, in a line.

    The networks are copied as they are. The quantizer is copied too where it has as many codes; otherwise its codes are
    split or merged until there are as many as the module has (``resize_codebook``), on latents of the new data.
    ``"new"`` starts codes, mean, scale and precision from such latents, by k-means.

    Args:
        module: of the same networks and the same kind of quantizer.
        data: that is to be trained on.
        path: of the trained tokenizer, as in ``load_model``.
        codebook: "keep" or "new".

    Raises:
        ValueError: the networks differ, or a composition has another number of codes; the message says in what.
    """
    check_choice("init_codebook", codebook, ("keep", "new"))
    source = load_model(path)
    model = module.model
    for name in ("encoder", "decoder"):
        _copy(getattr(source, name), getattr(model, name), f"the {name} of {path}")
    then: Any = source.quantizer
    now: Any = model.quantizer
    if codebook == "new":
        now.init_codebook(_latents(model, data))
        return f"networks of {path}, and a new codebook of {now.codebook_size:,} codes"
    text = f"networks and codebook of {path}"
    if then.codebook_size != now.codebook_size:
        if not isinstance(then, GaussianMixtureVQ):
            raise ValueError(
                f"{type(then).__name__} of {then.codebook_size} codes cannot be resized to {now.codebook_size}; keep "
                "model.codebook_size, or take --init_codebook new"
            )
        resized = resize_codebook(then, _latents(model, data), now.codebook_size)
        text += f", {then.codebook_size:,} codes made {now.codebook_size:,}"
        then = resized.layer
    _copy(then, now, f"the quantizer of {path}")
    return text


def freeze(module: TokenizerModule, parts: Sequence[str]) -> None:
    """Let some of encoder, decoder and quantizer stand still: no gradients, and no M-steps of the quantizer.

    Raises:
        ValueError: another name, or all three, which leaves nothing to train.
    """
    for name in parts:
        check_choice("freeze", name, PARTS)
    if set(parts) == set(PARTS):
        raise ValueError("freeze names all parts, so there is nothing to train; name one or two")
    for name in parts:
        getattr(module.model, name).requires_grad_(False)


def _copy(source: nn.Module, target: nn.Module, what: str) -> None:
    weights = source.state_dict()
    problems = mismatches(weights, target.state_dict())
    if problems:
        raise ValueError(
            f"{what} does not fit this configuration: {'; '.join(problems[:3])}; leave the model.* options that say "
            "which model it is to the trained one"
        )
    check_values(weights, what)
    fill(target, weights)


@torch.no_grad()
def _latents(model: VQAutoencoder, data: ImageDataModule) -> Tensor:
    """Latents of evenly spaced training images, (N, D), some dozens for each code."""
    images = data.dataset("train")
    wanted = max(_LEAST, _PER_CODE * model.quantizer.codebook_size)
    with evaluating(model):
        first = model._latents(images[0][None]).flatten(0, -2)
        count = min(len(images), -(-wanted // len(first)))
        chosen = torch.utils.data.Subset(images, torch.linspace(0, len(images) - 1, count).long().tolist())
        device = first.device
        found = [
            model._latents(batch).flatten(0, -2)
            for batch in image_batches(chosen, batch_size=64, device=device)
        ]
    return torch.cat(found)

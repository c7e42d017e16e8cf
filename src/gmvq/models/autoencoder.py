"""``VQAutoencoder``: a quantizer between any encoder and any decoder, from inputs to tokens and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import check_choice
from ..quantizers import GaussianMixtureVQ
from ..types import QuantizerOutput
from . import hub, pretrained
from .card import model_card
from .interface import (
    QuantizerLike,
    as_floats,
    check_axes,
    decode_latents,
    evaluating,
    feature_axis,
    spending,
)
from .nets import build_networks


@dataclass(frozen=True)
class AutoencoderOutput:
    """What the autoencoder returns for inputs of shape (B, ...).

    Attributes:
        reconstruction: the decoder's output, usually of the input's shape.
        quantizer: the quantizer's output; ``quantized`` is (B, *spatial, D), ``indices`` is (B, *spatial).
    """

    reconstruction: Tensor
    quantizer: QuantizerOutput


pytree.register_dataclass(AutoencoderOutput, field_names=["reconstruction", "quantizer"])


class VQAutoencoder(nn.Module, hub.Published):
    """Encoder, quantizer and decoder as one tokenizer: inputs (B, ...) to indices (B, *spatial) and back.

    ``encode``, ``decode`` and ``reconstruct`` run in eval mode and without gradients, whatever mode the model
    is in, and leave that mode as it was. ``decode(encode(x))``, ``reconstruct(x)`` and the reconstruction of
    the forward pass in eval mode are equal bit for bit, under autocast too: latents go through the quantizer
    in float32 and reach the decoder in the dtype of its parameters. All three raise a ValueError while there is no
    codebook: a mixture that has not been trained has none.

    Args:
        encoder: any module; puts out (B, D, *spatial), or (B, *spatial, D) with ``layout="channels_last"``.
        quantizer: a quantizer of this package (or any module with the methods of
            ``QuantizerLike``) with dim = D.
        decoder: any module; takes the quantized latents in the layout of the encoder's output.
        layout: where the latents' feature axis is: ``"channels_first"`` (convolutions) or ``"channels_last"``
            (transformers). This is the order of the axes, not the memory format.

    Example:
        >>> model = build_autoencoder("tiny", codebook_size=512)
        >>> out = model(torch.rand(8, 3, 32, 32))
        >>> out.reconstruction.shape, out.quantizer.indices.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 8, 8]))
        >>> tokens = model.encode(torch.rand(1, 3, 64, 48))  # (1, 16, 12), int64
        >>> image = model.decode(tokens)  # (1, 3, 64, 48)
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: nn.Module,
        decoder: nn.Module,
        *,
        layout: Literal["channels_first", "channels_last"] = "channels_first",
    ) -> None:
        super().__init__()
        check_choice("layout", layout, ("channels_first", "channels_last"))
        self.encoder, self.decoder, self.layout = encoder, decoder, layout
        self.quantizer: QuantizerLike = quantizer  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor, mask: Tensor | None = None, **spend: Any) -> AutoencoderOutput:
        """Encode, quantize and decode.

        Args:
            x: input of the encoder, batch first.
            mask: (B, *spatial) boolean over the latent positions, True = valid; masked latents become zero.
            spend: ``budget`` or ``distortion``, for a quantizer that has them (``RaggedGMVQ``).

        Raises:
            ValueError: the encoder's feature axis does not have ``quantizer.dim`` entries.
        """
        out = self.quantizer(self._latents(x), mask, **spending(self.quantizer, spend))
        return AutoencoderOutput(reconstruction=decode_latents(self, out.quantized), quantizer=out)

    @overload
    def encode(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        return_log_variance: Literal[False] = False,
        **spend: Any,
    ) -> Tensor: ...
    @overload
    def encode(
        self, x: Tensor, mask: Tensor | None = None, *, return_log_variance: Literal[True], **spend: Any
    ) -> tuple[Tensor, Tensor]: ...
    def encode(
        self, x: Tensor, mask: Tensor | None = None, *, return_log_variance: bool = False, **spend: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Turn inputs into tokens.

        Args:
            x: input of the encoder, batch first.
            mask: (B, *spatial) boolean over the latent positions, True = valid.
            return_log_variance: return also how unsure each code is.
            spend: ``budget`` or ``distortion``, for a quantizer that has them (``RaggedGMVQ``).

        Returns:
            Indices (B, *spatial), int64, -1 where masked; with ``return_log_variance`` a pair of them and
            log s_c^2(x) of the chosen codes, (B, *spatial).
        """
        spend = spending(self.quantizer, spend)
        with self._evaluating():
            latents = self._latents(x)
            if not return_log_variance:
                return self.quantizer.encode(latents, mask, **spend)
            out = self.quantizer(latents, mask, **spend)
            return out.indices, out.log_variance

    def decode(self, indices: Tensor) -> Tensor:
        """Turn tokens (B, *spatial) into the decoder's output; -1 stands for a masked position.

        Raises:
            ValueError: an index out of range or, for this package's own networks, another number of axes.
        """
        check_axes(self, indices)
        with self._evaluating():
            return decode_latents(self, self.quantizer.get_codes_from_indices(indices))

    def reconstruct(self, x: Tensor, mask: Tensor | None = None, **spend: Any) -> Tensor:
        """``decode(encode(x))``."""
        return self.decode(self.encode(x, mask, **spend))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return optimizer groups with every parameter once: the networks at ``lr``, then the quantizer's.

        Example:
            >>> optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3))
        """
        groups = self.quantizer.parameter_groups(lr)
        taken = {id(parameter) for group in groups for parameter in group["params"]}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in taken]
        return [{"params": rest, "lr": lr}, *groups] if rest else groups

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, metadata: dict[str, Any] | None = None
    ) -> None:
        """Write ``model.safetensors`` and ``config.json`` to a folder, creating it if needed.

        Each file replaces its predecessor in one step, so an interrupted save leaves the old one whole.

        Args:
            directory: the folder.
            metadata: anything JSON can hold, kept in ``config.json``: data, metrics, ...

        Raises:
            TypeError: ``metadata`` holds something that JSON cannot.
        """
        pretrained.save(self, directory, metadata)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        revision: str | None = None,
        map_location: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a model written by ``save_pretrained`` or ``push_to_hub``, in eval mode.

        Networks of ``build_networks`` and of ``read_diffusers`` are rebuilt from what the folder says of them. Others
        have to be passed, built as they were; their weights are overwritten in place.

        Args:
            path_or_hub_id: a folder; ``"builtin:photos"`` or another model of the package gmvq-models; or
                ``"owner/name"`` on the Hugging Face Hub.
            encoder, decoder: the networks, where they are not this package's own.
            revision: branch, tag or commit on the Hub.
            map_location: the device to load to.
            token: Hub token, for private repositories.

        Raises:
            FileNotFoundError: no such folder or repository, or one of the two files is not in it.
            ValueError: a file is broken, of an unknown format version, or does not fit the networks.
            MissingExtraError: a Hub id without the package huggingface_hub, or a built-in model without gmvq-models.
        """
        folder = hub.resolve(path_or_hub_id, revision=revision, token=token)
        return pretrained.load(cls, folder, encoder, decoder).to(map_location).eval()

    def _card(self, **about: Any) -> str:
        return model_card(self, **about)

    def _latents(self, x: Tensor) -> Tensor:
        """Encode to (B, *spatial, D), in float32 at least."""
        latents = self._encoded(x)
        dim, axis = self.quantizer.dim, feature_axis(self)
        if latents.ndim < 2 or latents.shape[axis] != dim:
            hint = f"build the encoder with {dim} output features, or the quantizer with dim= the encoder's"
            if latents.ndim > 2 and latents.shape[-1 if axis == 1 else 1] == dim:
                other = "channels_last" if self.layout == "channels_first" else "channels_first"
                hint = f"pass layout={other!r} to VQAutoencoder"
            raise ValueError(
                f"the quantizer has dim={dim}, but the encoder's output has shape {tuple(latents.shape)}, of "
                f"which axis {axis} is the feature axis (layout={self.layout!r}); {hint}"
            )
        return as_floats(latents.movedim(axis, -1))

    def _encoded(self, x: Tensor) -> Tensor:
        """The encoder's output; where x is of another dtype than the weights, an error that says so."""
        if torch.compiler.is_compiling():
            return self.encoder(x)
        try:
            return self.encoder(x)
        except RuntimeError as error:
            parameter = next(self.encoder.parameters(), None)
            if parameter is None or not isinstance(x, Tensor) or x.dtype == parameter.dtype:
                raise
            raise TypeError(
                f"the encoder's weights are {parameter.dtype} and its input is {x.dtype}; convert one of them: "
                f"x.to({parameter.dtype})"
            ) from error

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Eval mode without gradients; raise unless there are codes: without them every index would be -1."""
        with evaluating(self):  # eval mode starts the codebook of a training that was too short for one
            for part in self.get_submodule("quantizer").modules():
                if isinstance(part, GaussianMixtureVQ) and not part._has_codebook():
                    raise ValueError(
                        "the model has no codebook yet: train it (codes are placed after quantizer.start_after "
                        "batches, or by model.eval()), or call model.quantizer.init_codebook(latents) with latents "
                        f"(..., {self.quantizer.dim}) of the encoder"
                    )
            yield


def build_autoencoder(
    name: str = "tiny",
    *,
    channels: int = 3,
    downsample: int = 4,
    dim: int = 4,
    codebook_size: int = 256,
    spatial_dims: int = 2,
    quantizer: nn.Module | None = None,
) -> VQAutoencoder:
    """Build an autoencoder from the default networks and a ``GaussianMixtureVQ``.

    Args:
        name: size of the networks: ``"tiny"``, ``"small"`` or ``"base"``.
        channels, downsample, spatial_dims: as in ``build_networks``.
        dim: features per latent position.
        codebook_size: number of codes.
        quantizer: another quantizer, whose ``dim`` then replaces ``dim`` and ``codebook_size``.

    Example:
        >>> model = build_autoencoder("small", downsample=8, dim=64, codebook_size=1024)
    """
    quantizer = GaussianMixtureVQ(dim=dim, codebook_size=codebook_size) if quantizer is None else quantizer
    encoder, decoder = build_networks(
        name,
        channels=channels,
        dim=quantizer.dim,  # pyright: ignore[reportArgumentType]
        downsample=downsample,
        spatial_dims=spatial_dims,
    )
    return VQAutoencoder(encoder, quantizer, decoder)

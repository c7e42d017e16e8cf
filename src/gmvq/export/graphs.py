"""The two graphs of a tokenizer, and the shapes they take: batch and every size are free, sizes in steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import as_value_error
from ..models.interface import code_sizes, decode_latents, feature_axis, networks_of
from ..quantizers import PyramidGMVQ

if TYPE_CHECKING:
    from ..models import VQAutoencoder

_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
#: Largest batch and number of latent positions along an axis; programs are made for a range.
_MAX_BATCH, _MAX_POSITIONS = 1 << 16, 1 << 14
#: Entries of a signature that are written where they differ from these.
_OPTIONAL: dict[str, Any] = {"least": 2, "codebook_sizes": []}


@dataclass(frozen=True)
class Signature:
    """What goes in and comes out.

    Attributes:
        channels: of the images (B, channels, *size), float32 in [0, 1].
        downsample: pixels per latent position along each axis.
        spatial_dims: number of axes in *size.
        index_shape: of the indices of one position: () for one code, (n,) for n levels or groups.
        codebook_size: K; indices are int64 in [0, K), or -1 for a masked position.
        dim: D.
        codebook_sizes: K of each code of a position, where they differ; ``codebook_size`` is then the largest.
        least: positions along every side, at least. A program treats an axis of one as a case of its own, and so of a
            pyramid the coarsest scale has two blocks.
    """

    channels: int
    downsample: int
    spatial_dims: int
    index_shape: tuple[int, ...]
    codebook_size: int
    dim: int
    least: int = 2
    codebook_sizes: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the spatial axes."""
        return _AXES[self.spatial_dims]

    @property
    def minimum_size(self) -> int:
        """Pixels that every side has at least."""
        return self.least * self.downsample

    def constraint(self) -> str:
        """The rule for sizes in words."""
        return f"{' and '.join(self.axes)}: multiples of {self.downsample}, at least {self.minimum_size}"

    def image_shape(self) -> list[str | int]:
        """Shape of the images, with names for what is free."""
        return ["batch", self.channels, *(f"{self.downsample}*{axis[0]}" for axis in self.axes)]

    def indices_shape(self) -> list[str | int]:
        """Shape of the indices, with the same names."""
        return ["batch", *(axis[0] for axis in self.axes), *self.index_shape]

    def check_images(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless images of this shape can be encoded."""
        sizes = tuple(shape[2:])
        if len(shape) != 2 + self.spatial_dims or shape[1] != self.channels or shape[0] < 1:
            raise ValueError(
                f"expected images of shape (batch, {self.channels}, {', '.join(self.axes)}), got {tuple(shape)}"
            )
        if any(size % self.downsample or size < self.minimum_size for size in sizes):
            raise ValueError(
                f"the exported model takes {self.constraint()}; got {' x '.join(map(str, sizes))}: crop or pad the "
                "images"
            )

    def check_indices(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless indices of this shape can be decoded."""
        expected = 1 + self.spatial_dims + len(self.index_shape)
        sizes = tuple(shape[1 : 1 + self.spatial_dims])
        if (
            len(shape) != expected
            or tuple(shape[1 + self.spatial_dims :]) != self.index_shape
            or shape[0] < 1
        ):
            names = ", ".join(map(str, ["batch", *self.axes, *self.index_shape]))
            raise ValueError(f"expected indices of shape ({names}), got {tuple(shape)}")
        if min(sizes) < self.least:
            raise ValueError(
                f"the exported model takes at least {self.least} positions along every side, got "
                f"{' x '.join(map(str, sizes))}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields, of types that JSON has; the last two where they are not their defaults."""
        fields = {**asdict(self), "index_shape": list(self.index_shape)}
        fields["codebook_sizes"] = list(self.codebook_sizes)
        return {name: value for name, value in fields.items() if _OPTIONAL.get(name) != value}


class EncoderGraph(nn.Module):
    """Images (B, C, *size) to indices (B, *size / downsample, *index_shape)."""

    def __init__(self, model: VQAutoencoder) -> None:
        super().__init__()
        self.encoder, self.quantizer = model.encoder, model.quantizer
        self.layout = model.layout

    def latents(self, images: Tensor) -> Tensor:
        """(B, *spatial, D)."""
        return self.encoder(images).movedim(feature_axis(self), -1)

    def forward(self, images: Tensor) -> Tensor:
        return self.quantizer.encode(self.latents(images))


class DecoderGraph(nn.Module):
    """Indices (B, *spatial, *index_shape) to images (B, C, *size); the images are not clamped."""

    def __init__(self, model: VQAutoencoder) -> None:
        super().__init__()
        self.quantizer, self.decoder = model.quantizer, model.decoder
        self.layout = model.layout

    def forward(self, indices: Tensor) -> Tensor:
        return decode_latents(self, self.quantizer.get_codes_from_indices(indices))


def plain_copy(model: VQAutoencoder) -> VQAutoencoder:
    """A copy in float32 on the CPU, in eval mode and without gradients: what is exported and compared with."""
    model = copy.deepcopy(model).float().cpu().eval()
    return model.requires_grad_(False)


def signature_of(
    model: VQAutoencoder,
    *,
    channels: int | None = None,
    downsample: int | None = None,
    spatial_dims: int | None = None,
) -> Signature:
    """Find out the shapes of a model by its networks' configuration and one small batch.

    Args:
        model: a model as ``plain_copy`` makes it.
        channels, downsample, spatial_dims: of networks that are not this package's own.

    Raises:
        ValueError: unknown for these networks, or the indices are not one per ``downsample`` pixels along each axis.
    """
    config = networks_of(model)
    channels = channels or config.get("channels")
    downsample = downsample or config.get("downsample")
    spatial_dims = spatial_dims or config.get("spatial_dims", 2)
    if not channels or not downsample:
        raise ValueError(
            "the networks of this model do not say what they take; pass channels= and downsample= (pixels per token "
            "along each axis)"
        )
    if spatial_dims not in _AXES:
        raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}")
    sizes = [downsample * number for number in (3, 5, 2)[:spatial_dims]]
    with torch.no_grad():
        found = tuple(EncoderGraph(model)(torch.zeros(2, channels, *sizes)).shape)
    spatial = tuple(size // downsample for size in sizes)
    if found[: 1 + spatial_dims] != (2, *spatial):
        raise ValueError(
            f"expected one token for {downsample} pixels along each axis, indices of shape {(2, *spatial)} for images "
            f"of {' x '.join(map(str, sizes))}; got {found}: pass downsample= and spatial_dims= as the networks have"
        )
    quantizer, codes = model.quantizer, found[1 + spatial_dims :]
    least = 1 + (1 << (codes[0] - 1)) if isinstance(quantizer, PyramidGMVQ) else 2
    sizes = code_sizes(quantizer)
    own = sizes if len(set(sizes)) > 1 else ()
    return Signature(channels, downsample, spatial_dims, codes, max(sizes), quantizer.dim, least, own)


@dataclass(frozen=True)
class Graph:
    """One graph ready for an exporter: module, example, dynamic shapes, and the names of input and output."""

    module: nn.Module
    example: Tensor
    dynamic: dict[int, Any]
    input_name: str
    output_name: str

    def program(self) -> torch.export.ExportedProgram:
        """The ``torch.export`` program."""
        with self.able_to("be exported with a free batch and free sizes; torch.export says"), torch.no_grad():
            program = torch.export.export(self.module, (self.example,), dynamic_shapes=(self.dynamic,))
        # Where in the source a node comes from: paths of this machine, with the name of its user.
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)
        return program

    def able_to(self, what: str) -> AbstractContextManager[None]:
        """Say what cannot be done with the graph, and why: exporters raise a class for each of their stages."""
        return as_value_error(
            f"the graph from {self.input_name} to {self.output_name} cannot {what}", Exception
        )


def graphs_of(model: VQAutoencoder, signature: Signature) -> tuple[Graph, Graph]:
    """The encoder's and the decoder's graph of a model as ``plain_copy`` makes it."""
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    least, step = signature.least, signature.downsample
    positions = [torch.export.Dim(axis[0], min=least, max=_MAX_POSITIONS) for axis in signature.axes]
    numbers = [least + more for more in (1, 3, 0)[: signature.spatial_dims]]
    images = torch.zeros(2, signature.channels, *(step * number for number in numbers))
    indices = torch.full((2, *numbers, *signature.index_shape), -1)
    return (
        Graph(
            EncoderGraph(model),
            images,
            {0: batch, **{2 + axis: step * size for axis, size in enumerate(positions)}},
            "images",
            "indices",
        ),
        Graph(
            DecoderGraph(model),
            indices,
            {0: batch, **{1 + axis: size for axis, size in enumerate(positions)}},
            "indices",
            "images",
        ),
    )

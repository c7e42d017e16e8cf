"""``TokenPrior``: a distribution over the tokens of a tokenizer, to draw from and to measure with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_size
from ..files import PathLike
from ..models.card import fill_card
from ..models.hub import Published, resolve
from ..models.interface import evaluating, sizes_text
from ..models.pretrained import CONFIG, FORMAT_VERSION, WEIGHTS, read_config, write_folder
from ..models.weights import build_filled, named_in_errors, read_weights
from ..reading import is_number
from ..screen import markdown
from . import causal, masked, ragged
from .filters import Filters
from .network import TokenNetwork
from .spec import TokenSpec

#: A tokenizer that others find, unlike a folder of the machine that trained the prior.
_NAME = re.compile(r"(builtin|hf):[\w./-]+")


class TokenPrior(nn.Module, Published):
    """p(x | y) over the tokens x of an image, given its label y or none.

    ============ ============================================================= ======================
    kind         draws                                                         likelihood
    ============ ============================================================= ======================
    ``causal``   token by token in the order of ``spec``, with a KV cache      exact
    ``masked``   all at once, in some ten steps (MaskGIT)                      a bound
    ============ ============================================================= ======================

    Args:
        spec: what the tokens are.
        kind: ``"causal"`` or ``"masked"``.
        size: of the network: ``"tiny"`` (for a CPU), ``"small"`` or ``"base"``.
        dropout: rate in the network.

    Raises:
        ValueError: no such kind or size.

    Example:
        >>> prior = TokenPrior.from_pretrained("runs/prior/model")
        >>> images = tokenizer.decode(prior.sample(16, seed=0))
    """

    def __init__(
        self,
        spec: TokenSpec,
        kind: Literal["causal", "masked"] = "causal",
        size: Literal["tiny", "small", "base"] = "tiny",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("kind", kind, ("causal", "masked"))
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        # A masked prior reads grids: it draws all positions at once, whatever their leaves.
        self.spec, self.kind = spec if kind == "causal" else replace(spec, scales=1), kind
        self.config = {"kind": kind, "size": size, "dropout": dropout}
        self.network = TokenNetwork(self.spec, size, causal=kind == "causal", dropout=dropout)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.head.device

    def loss(self, indices: Tensor, labels: Tensor | None = None) -> Tensor:
        """What training minimises, nats per token: -log p(x_t | x_<t), or that of masked tokens given the others.

        Of ragged codes it is per position.

        Args:
            indices: (B, *spec.shape), int64.
            labels: (B,), negative where there is none; None: none at all.
        """
        if self.spec.scales > 1:
            return self._ragged(indices, labels).mean() / self.spec.length
        ids, label_ids = self._ids(indices, labels)
        if self.kind == "masked":
            return masked.loss(self.network, ids, label_ids)
        return causal.nats(self.network, ids, label_ids).mean()

    def nats(self, indices: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """-log p(x | y) per image, (B,), nats: exact if causal, one sample of an upper bound if masked.

        In eval mode, without gradients. Of ragged codes it is that of the leaves: what coding them costs.

        Args:
            indices, labels: as in ``loss``.
            seed: of the masks; the causal figure has no chance in it.
        """
        with evaluating(self):
            if not len(indices):
                return torch.zeros(0, device=self.device)
            if self.spec.scales > 1:
                return self._ragged(indices, labels)
            ids, label_ids = self._ids(indices, labels)
            if self.kind == "causal":
                return causal.nats(self.network, ids, label_ids).sum(1)
            generator = torch.Generator(self.device).manual_seed(seed)
            return masked.bound(self.network, ids, label_ids, generator)

    def sample(
        self,
        count: int,
        *,
        labels: Tensor | None = None,
        filters: Filters | None = None,
        seed: int = 0,
        batch_size: int = 256,
        steps: int = 12,
        choice_temperature: float = 4.5,
    ) -> Tensor:
        """Draw the tokens of images: indices (count, *spec.shape), int64, for ``tokenizer.decode``.

        Args:
            count: number of images.
            labels: (count,), negative for none; None: none at all.
            filters: temperature, top-k, top-p, guidance; default: the distribution as it is.
            seed: same seed, same device, same batch size: same tokens.
            batch_size: images at a time.
            steps: of the masked kind.
            choice_temperature: noise on the confidence, of the masked kind.

        Raises:
            ValueError: a number is out of range, or a label that the prior does not know.
        """
        for name, value in (("count", count), ("batch_size", batch_size), ("steps", steps)):
            check_size(name, value)
        filters = filters or Filters()
        if filters.guidance and not self.spec.labels:
            raise ValueError("guidance needs labels, and this prior was trained without")
        generator = torch.Generator(self.device).manual_seed(seed)
        label_ids = self.spec.label_ids(labels, count, self.device)
        none = self.spec.label_ids(None, count, self.device)
        parts = []
        with evaluating(self):
            for own, no_label in zip(label_ids.split(batch_size), none.split(batch_size), strict=True):
                if self.kind == "causal":
                    ids = causal.sample(self.network, own, no_label, filters, generator)
                else:
                    options = {"steps": steps, "choice_temperature": choice_temperature}
                    ids = masked.sample(self.network, own, no_label, filters, generator, **options)
                parts.append(self.spec.indices(ids))
        return torch.cat(parts)

    def inpaint(
        self,
        indices: Tensor,
        mask: Tensor,
        *,
        labels: Tensor | None = None,
        filters: Filters | None = None,
        seed: int = 0,
        steps: int = 12,
        choice_temperature: float = 4.5,
    ) -> Tensor:
        """Draw some tokens of images anew, given the others; of the masked kind.

        Args:
            indices: (B, *spec.shape), int64.
            mask: (*spec.shape), boolean, True where a token is drawn; the others stay.
            labels, filters, seed, steps, choice_temperature: as in ``sample``.

        Raises:
            ValueError: the prior is causal, a shape is another, no token is to be drawn, or a number is out of range.

        Example:
            >>> from gmvq.prior import TokenPrior, TokenSpec
            >>> prior = TokenPrior(TokenSpec((8, 8), codebook_size=256), kind="masked")
            >>> left_half = torch.arange(8).expand(8, 8) < 4
            >>> prior.inpaint(torch.zeros(1, 8, 8, dtype=torch.int64), left_half).shape
            torch.Size([1, 8, 8])
        """
        if self.kind != "masked":
            raise ValueError(
                "a causal prior draws tokens in their order and cannot fill gaps; train one with --model.kind masked"
            )
        fits = mask.shape == self.spec.shape and mask.dtype == torch.bool
        if not (fits and bool(mask.flatten()[self.spec.places].any())):
            raise ValueError(
                f"mask must be boolean, of shape {self.spec.shape}, and True at some token; got {mask.dtype} of shape "
                f"{tuple(mask.shape)} with {int(mask.sum())} places"
            )
        check_size("steps", steps)
        ids, label_ids = self._ids(indices, labels)
        none = self.spec.label_ids(None, len(ids), self.device)
        generator = torch.Generator(self.device).manual_seed(seed)
        start = ids.masked_fill(mask.flatten()[self.spec.places].to(self.device), self.spec.mask_id)
        options = {"steps": steps, "choice_temperature": choice_temperature, "start": start}
        with evaluating(self):
            drawn = masked.sample(self.network, label_ids, none, filters or Filters(), generator, **options)
        return self.spec.indices(drawn)

    def to_config(self) -> dict[str, Any]:
        """The arguments, fit for JSON."""
        return {**self.config, "spec": self.spec.to_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild from ``to_config``, with new weights."""
        return cls(**{**config, "spec": TokenSpec.from_config(config["spec"])})

    def save_pretrained(self, directory: PathLike, *, metadata: dict[str, Any] | None = None) -> None:
        """Write ``model.safetensors`` and ``config.json``; each replaces its predecessor in one step.

        Raises:
            TypeError: ``metadata`` holds something that JSON cannot.
        """
        config = {"format_version": FORMAT_VERSION, "class": TokenPrior.__name__, "prior": self.to_config()}
        write_folder(directory, {**config, "metadata": metadata or {}}, self.state_dict())

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: PathLike,
        *,
        revision: str | None = None,
        map_location: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a prior, in eval mode: from a folder, ``"builtin:NAME"``, or ``"owner/name"`` on the Hub.

        Raises:
            FileNotFoundError: no such folder or repository, or a file is missing in it.
            ValueError: a file is broken, or of something else.
        """
        folder = resolve(path_or_hub_id, revision=revision, token=token)
        config = read_prior_config(folder)["prior"]
        return cls.filled(config, read_weights(folder / WEIGHTS), folder / CONFIG).to(map_location).eval()

    @classmethod
    def filled(cls, config: Any, weights: Mapping[str, Tensor], file: object) -> Self:
        """Build a prior by ``to_config`` and fill in tensors that have to fit it; ``file`` is named in errors."""

        def build() -> Self:
            with named_in_errors(file, "prior"):
                return cls.from_config(config)

        return build_filled(build, weights, file)

    def _card(self, *, repo_id: str, metadata: Mapping[str, Any], license: str | None) -> str:
        """The README.md of a Hub repository: what the prior is, its figures, how to draw from it."""
        spec, metrics = self.spec, metadata.get("metrics") or {}
        tokenizer, step = str(metadata.get("tokenizer")), metadata.get("step")
        return fill_card(
            "prior_card.md.j2",
            {"license": license, "tags": ["gmvq", "image-generation", "vector-quantization", "pytorch"]},
            name=markdown(repo_id.rpartition("/")[2]),
            repo_id=repo_id,
            kind=self.kind,
            size=self.config["size"],
            parameters=f"{sum(parameter.numel() for parameter in self.parameters()) / 1e6:.2f}",
            steps=step if is_number(step) else None,
            shape=" x ".join(map(str, spec.shape)),
            codebook_size=sizes_text(spec.sizes),
            labels=spec.labels,
            metrics={
                markdown(name): value for name, value in metrics.items() if isinstance(value, int | float)
            },
            tokenizer=tokenizer if _NAME.fullmatch(tokenizer) else None,
            tokenizer_sha256=markdown(metadata.get("tokenizer_sha256", "not stated")),
        )

    def _ragged(self, indices: Tensor, labels: Tensor | None) -> Tensor:
        """-log p of the leaves of indices, (B,), nats."""
        label_ids = self.spec.label_ids(labels, len(indices), self.device)
        return ragged.nats(self.network, indices.to(self.device), label_ids)

    def _ids(self, indices: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        ids = self.spec.sequence(indices.to(self.device))
        return ids, self.spec.label_ids(labels, ids.shape[0], ids.device)


def read_prior_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a saved prior."""
    return read_config(folder / CONFIG, TokenPrior.__name__, ("format_version", "class", "prior"))

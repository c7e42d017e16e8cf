"""The output of every quantizer: one frozen dataclass that compile and export can return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer returns for latents of shape (..., D). Unpacks as ``quantized, indices, loss``.

    Attributes:
        quantized: (..., D), differentiable, in the dtype of the input; zero where masked.
        indices: (...), int64; -1 where masked.
        loss: scalar to add to a reconstruction loss in *any* units; see ``GaussianMixtureVQ``.
        nats: scalar, the same objective in nats per latent position with its plain gradient; add it to a
            negative log-likelihood in nats (``gmvq.objectives`` does).
        log_variance: (...), log s_c^2(x) of the chosen code: how unsure the code is; zero where masked.
        terms: named detached scalars for logging: ``kl_aggregate``, ``latent``, ``conditional_entropy``,
            ``aggregate_entropy`` (all in nats per position), ``perplexity``, ``temperature``, ...
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    nats: Tensor
    log_variance: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __iter__(self) -> Iterator[Tensor]:
        """Unpack in the order that existing quantizer layers use."""
        return iter((self.quantized, self.indices, self.loss))

    def __getitem__(self, index: int) -> Tensor:
        """``quantizer(latents)[0]`` is ``quantized``, as where a layer returns a tuple."""
        return (self.quantized, self.indices, self.loss)[index]


pytree.register_dataclass(
    QuantizerOutput,
    field_names=["quantized", "indices", "loss", "nats", "log_variance", "terms"],
)

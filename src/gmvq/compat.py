"""``VectorQuantize`` with the arguments and shapes of vector-quantize-pytorch 1.32, around a layer of this package.

What a mixture means alike does the same; what it has no need of is taken, and one warning says so (``IGNORED``); what
it cannot mean is refused, with what to use instead (``REFUSED``). docs/migration.md has the table of all arguments.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .functional.estimators import StraightThroughGumbel
from .functional.schedules import Constant
from .quantizers import GaussianMixtureVQ, GroupedGMVQ, mask_from_lengths
from .quantizers.base import masked
from .types import QuantizerOutput

#: Arguments that do nothing here, by the reason.
IGNORED: dict[str, tuple[str, ...]] = {
    "M-steps move the codes": ("decay", "eps", "in_place_codebook_optimizer"),
    "M-steps move the codes, and the gradient of the reconstruction does": ("learnable_codebook",),
    "k-means on the first batch starts the codes, always": ("kmeans_init", "kmeans_iters"),
    "births move codes that nothing uses": ("threshold_ema_dead_code",),
    "the processes of a run are found": ("sync_kmeans", "sync_codebook", "sync_affine_param"),
    "codes follow the latents": ("affine_param", "affine_param_batch_decay", "affine_param_codebook_decay"),
    "the loss finds its own weight": ("commitment_weight",),
    "beta, always on": ("codebook_diversity_loss_weight", "codebook_diversity_temperature"),
    "the gradient is that of the posterior's mean": ("rotation_trick",),
    "only with what is refused": (
        *("orthogonal_reg_active_codes_only", "orthogonal_reg_max_codes", "directional_reparam_variance"),
    ),
}
#: Arguments that are refused unless they are None, False or 0, and what to do instead.
REFUSED = {
    "use_cosine_sim": "normalise the latents; a trained module is converted by gmvq.convert",
    "commitment_use_cross_entropy_loss": "add the cross-entropy of vq(x, indices=indices)",
    "orthogonal_reg_weight": "add a penalty on vq.codebook, which has a gradient",
    "directional_reparam": "leave it out: quantized is a codeword in training, too",
    "vq_bridge": "leave it out: births keep codes in use",
    "manual_ema_update": "leave it out: the next training forward applies what a batch taught",
    "manual_in_place_optimizer_update": "leave it out: the codes have no optimizer of their own",
    "sync_update_v": "leave it out: the codes have no optimizer of their own",
}
#: Arguments of a call that are refused, likewise.
REFUSED_IN_CALL = {
    "codebook_transform_fn": "leave it out: a mixture has the same codes at all positions",
    "ema_update_weight": "mask what shall not count",
    "accum_ema_update": "set freeze_codebook=True in all forwards of a step but one",
}


class VectorQuantize(nn.Module):
    """``quantizer``, a ``GaussianMixtureVQ`` or ``GroupedGMVQ`` (heads), that answers as their ``VectorQuantize``.

    The first batch, in training or eval, starts the codebook. The loss needs no weight, and is 0 in eval.

    Args:
        dim, codebook_size: and the others, as theirs; with linear maps around the codes where ``codebook_dim * heads``
            is not ``dim``. ``sample_codebook_temp=t`` with ``stochastic_sample_codes`` draws codes from q(c|x)^(1/t);
            ``ema_update=False`` freezes them unless ``learnable_codebook`` is set.
        options: arguments of ``IGNORED``.

    Raises:
        ValueError: an argument of ``REFUSED``.
        TypeError: an argument that theirs has not.

    Example:
        >>> vq = VectorQuantize(dim=64, codebook_size=256, accept_image_fmap=True)
        >>> quantized, indices, loss = vq(torch.randn(2, 64, 16, 16))
        >>> quantized.shape, indices.shape, loss.shape
        (torch.Size([2, 64, 16, 16]), torch.Size([2, 16, 16]), torch.Size([]))
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        heads: int = 1,
        separate_codebook_per_head: bool = False,
        *,
        freeze_codebook: bool = False,
        layernorm_after_project_in: bool = False,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        accept_3d_fmap: bool = False,
        stochastic_sample_codes: bool = False,
        sample_codebook_temp: float = 1.0,
        straight_through: bool = False,
        ema_update: bool | None = None,
        return_zeros_for_masked_padding: bool = True,
        route_gradients_to_input: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        _check(options, REFUSED, IGNORED)
        self.codebook_size, self.heads, self.separate = codebook_size, heads, separate_codebook_per_head
        learns = ema_update is not False or bool(options.get("learnable_codebook"))
        self.freeze_codebook, self.ema_update = freeze_codebook, learns
        self.channels_first = accept_image_fmap or accept_3d_fmap or not channel_last
        self.stochastic, self.temperature = stochastic_sample_codes, sample_codebook_temp
        self.zeros, self.coupled = return_zeros_for_masked_padding, route_gradients_to_input
        inner = (codebook_dim or dim) * heads
        norm = [nn.LayerNorm(inner)] if layernorm_after_project_in else []
        self.project_in = nn.Identity() if inner == dim else nn.Sequential(nn.Linear(dim, inner), *norm)
        self.project_out = nn.Identity() if inner == dim else nn.Linear(inner, dim)
        own: dict[str, Any] = {"start_after": 0}
        if stochastic_sample_codes or straight_through:
            # Gumbel noise weighed by t beside log q: a draw from q^(1/t).
            noise = Constant(sample_codebook_temp if stochastic_sample_codes else 0.0)
            own["estimator"] = StraightThroughGumbel(Constant(sample_codebook_temp or 1.0), noise)
        if heads == 1:
            self.quantizer = GaussianMixtureVQ(inner, codebook_size, **own)
        else:
            self.quantizer = GroupedGMVQ(
                inner, codebook_size, heads, shared_codebook=not self.separate, **own
            )

    def forward(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        topk: int | None = None,
        *,
        freeze_codebook: bool | None = None,
        return_loss_breakdown: bool = False,
        ema_update: bool | None = None,
        sample_codebook_temp: float | None = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """``(quantized, indices, loss)`` of x (B, N, D), (B, D) or (B, D, *spatial), in their shapes.

        ``indices``: ``(quantized, cross_entropy)``, in nats, instead. ``topk=k``, in eval: an axis k more in all three,
        the squared error of each code as loss. ``return_loss_breakdown``: a fourth value, the layer's ``terms``.
        ``sample_codebook_temp``: t of this call, where codes are drawn.
        """
        _check(options, REFUSED_IN_CALL, {})
        if topk is not None and (self.training or self.heads > 1):
            raise ValueError("topk is for eval and one head; vq.quantizer.posterior(x).topk(k) has gradients")
        if mask is not None and lens is not None:
            raise ValueError("give a mask or lens, not both")
        x = x.movedim(1, -1) if self.channels_first and x.ndim > 2 else x
        mask = mask if lens is None else mask_from_lengths(lens, tuple(x.shape[1:-1]))
        z = self.project_in(x)
        frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        frozen = frozen or not (self.ema_update if ema_update is None else ema_update)
        temperature = self.temperature if sample_codebook_temp is None else sample_codebook_temp
        if temperature < 0:
            raise ValueError(f"sample_codebook_temp must not be negative, got {temperature}")
        with self._at(temperature):
            out, posterior = self._run(z, mask, frozen, looks=indices is not None or topk is not None)
        if indices is not None:
            nats = posterior.cross_entropy(masked(indices.reshape(out.indices.shape), mask, -1))
            return self._output(out.quantized, mask, x), nats
        quantized = out.quantized if self.coupled else out.quantized.detach()
        codes, loss = out.indices, out.loss * self.training
        if self.stochastic and self.training and temperature > 0:
            # The layer's indices are the likeliest codes, these are those that were drawn.
            codes = self.quantizer.encode(out.quantized.detach(), mask)
        if topk is not None:
            codes = posterior.topk(min(topk, self.codebook_size))[1]
            quantized = self.quantizer.get_codes_from_indices(codes).to(z.dtype)
            loss = masked((quantized - z[..., None, :]).square().mean(-1), mask, 0.0)
        result = self._output(quantized, mask, x), codes, loss
        return (*result, out.terms) if return_loss_breakdown else result

    @property
    def codebook(self) -> Tensor:
        """The codes (K, d), or (heads, K, d) with one codebook each; between the maps; with their gradient."""
        for mixture in self._mixtures:
            if mixture._learns:
                mixture.settle()
        numbers = torch.arange(self.codebook_size, device=self._mixtures[0].codebook.device)
        codes = [mixture.get_codes_from_indices(numbers) for mixture in self._mixtures]
        return torch.stack(codes) if self.separate else codes[0]

    @codebook.setter
    def codebook(self, codes: Tensor) -> None:
        for mixture, own in zip(self._mixtures, codes if self.separate else codes[None], strict=True):
            mixture.set_codebook(own)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes (B, N, d * heads), or with channels first (B, d * heads, *spatial), of indices; zero where -1."""
        return self._first(self.quantizer.get_codes_from_indices(indices))

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What ``forward`` gives for indices in eval; zero where -1."""
        codes = self.quantizer.get_codes_from_indices(indices)
        mask = (indices >= 0).all(-1) if self.heads > 1 else indices >= 0
        return self._first(masked(self.project_out(codes), mask, 0.0))

    @property
    def _mixtures(self) -> list[GaussianMixtureVQ]:
        return self.quantizer.mixtures if isinstance(self.quantizer, GroupedGMVQ) else [self.quantizer]

    @contextmanager
    def _at(self, temperature: float) -> Iterator[None]:
        """The layer at another temperature, if this is one, and it draws codes."""
        mixtures = self._mixtures if self.stochastic and temperature != self.temperature else []
        before = [(one, one.temperature, one.gumbel_noise) for one in mixtures]
        try:
            for one in mixtures:
                # New tensors, as backward has those of the forward.
                one.temperature = torch.full_like(one.temperature, temperature or 1.0)
                one.gumbel_noise = torch.full_like(one.gumbel_noise, temperature)
            yield
        finally:
            for one, own, noise in before:
                one.temperature, one.gumbel_noise = own, noise

    def _run(self, z: Tensor, mask: Tensor | None, frozen: bool, looks: bool) -> tuple[QuantizerOutput, Any]:
        """The layer on z, and the posterior of one that ``looks``; where ``frozen`` no code learns."""
        learning = [one.codebook for one in self._mixtures if frozen and one.codebook.requires_grad]
        try:
            for codebook in learning:
                codebook.requires_grad_(False)
            waits = frozen or not self.training
            if waits and not all(one._has_codebook() for one in self._mixtures):
                seen = z if mask is None else z[mask]
                if seen.numel():
                    self.quantizer.init_codebook(seen.detach())
            return self.quantizer(z, mask), self.quantizer.posterior(z, mask) if looks else None
        finally:
            for codebook in learning:
                codebook.requires_grad_(True)

    def _output(self, codes: Tensor, mask: Tensor | None, x: Tensor) -> Tensor:
        """Codes (B, *spatial, [k,] d * heads) as the decoder reads them; zeros, or x, where masked."""
        values = self.project_out(codes)
        if mask is not None:
            axes = [1] * (values.ndim - x.ndim + 1)
            padding = values.new_zeros(()) if self.zeros else x.to(values).view(*mask.shape, *axes[1:], -1)
            values = torch.where(mask.view(*mask.shape, *axes), values, padding)
        return self._first(values) if x.ndim > 2 else values

    def _first(self, values: Tensor) -> Tensor:
        return values.movedim(-1, 1) if self.channels_first and values.ndim > 2 else values


def _check(options: dict[str, Any], refused: dict[str, str], ignored: dict[str, tuple[str, ...]]) -> None:
    """Raise for an argument that is unknown or refused; warn once of all that do nothing."""
    idle = {name: why for why, names in ignored.items() for name in names}
    if unknown := sorted(options.keys() - refused.keys() - idle.keys()):
        raise TypeError(f"no argument {', '.join(unknown)}, neither here nor in vector-quantize-pytorch 1.32")
    for name in options.keys() & refused.keys():
        if (value := options[name]) is not None and not (isinstance(value, int | float) and value == 0):
            raise ValueError(f"{name} has no meaning for a mixture: {refused[name]}; see docs/migration.md")
    if found := [f"{name} ({idle[name]})" for name in options if name in idle]:
        warnings.warn(f"these arguments do nothing in gmvq: {'; '.join(found)}", stacklevel=3)

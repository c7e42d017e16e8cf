"""What a mixture knows: its parameters, the frame in which it lives, and when they start, learn and stand still."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import check_choice, check_size
from ..functional.distributed import gather_rows
from ..functional.schedules import Schedule
from .base import Quantizer
from .config import from_arguments, to_arguments
from .evidence import Moments
from .learning import learn
from .migrate import migrate_state
from .own_codebook import set_codebook
from .parts import Precision, Variance
from .start import Pool, refuse_compiled, start_from, start_from_pool


class MixtureState(Quantizer):
    """The registered state of one mixture. Every fact is one tensor, which every way of moving weights moves.

    Attributes:
        codebook: mu, (K, d), in standardised units; zero before the start, and that is how the layer knows.
        log_precision: log w, (1,) or (d,).
        mean, scale: m, (D,), and s, (1,), of the latents that started the codebook; a scale of zero is not known yet.
        project_in, project_out: A, (d, D), and B, (D, d), or None where d = D.
        weight_logits: (K,), where the weights pi are learned.
        batches: number of training batches before the start.
        share: running share of positions of each code, (K,), for births.
        frozen: where frozen codes stand, (K, d), NaN for codes that learn; None where all learn.
    """

    batches: Tensor
    share: Tensor
    frozen: Tensor | None

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None,
        precision: Precision,
        variance: Variance,
        mixture_weights: Literal["uniform", "learned"],
        standardize: bool,
        units: Literal["latents", "standardized"],
        frozen_codes: bool = False,
    ) -> None:
        super().__init__(dim, codebook_size)
        if codebook_dim is not None:
            check_size("codebook_dim", codebook_dim)
        check_choice("mixture_weights", mixture_weights, ("uniform", "learned"))
        check_choice("units", units, ("latents", "standardized"))
        self.codebook_dim = dim if codebook_dim is None else min(codebook_dim, dim)
        self.precision, self.variance, self.mixture_weights = precision, variance, mixture_weights
        self.standardize, self.units = standardize, units
        self.project_in, self.project_out = _projections(dim, self.codebook_dim)
        self.codebook = nn.Parameter(torch.zeros(codebook_size, self.codebook_dim))
        width = self.codebook_dim if precision.per_feature else 1
        self.log_precision = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.mean = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.scale = nn.Parameter(torch.full((1,), 0.0 if standardize else 1.0), requires_grad=False)
        if mixture_weights == "learned":
            self.weight_logits = nn.Parameter(torch.zeros(codebook_size))
        self.frozen_codes = frozen_codes
        places = torch.full((codebook_size, self.codebook_dim), torch.nan) if frozen_codes else None
        self.register_buffer("frozen", places)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("share", torch.full((codebook_size,), 1.0 / codebook_size))
        #: False: the codebook is another layer's too, so a code that is dead here may live there.
        self.births = True
        #: True: ``init_codebook`` fits scale and precision alone.
        self.keep_codebook = False
        #: The mixtures that share the codebook and start together, when the last of them is ready; None: no other.
        self.group: list[Any] | None = None
        #: Factor on the weight of the past in the codewords: vectors of the finest scale for each one of this.
        self.memory = 1.0
        self._pool: Pool | None = None
        self._pending: tuple[Moments | None, Tensor, Tensor] | None = None
        #: Whether the codebook was seen to have started, so that no step has to look at the device again.
        self._ready = False
        self.register_load_state_dict_pre_hook(migrate_state)
        self.register_load_state_dict_post_hook(_look_again)
        self.register_state_dict_pre_hook(_settle)

    def _schedules(self) -> dict[str, Schedule]:
        """Every schedule by the name of the buffer that holds its value."""
        raise NotImplementedError

    def set_progress(self, progress: float) -> None:
        """Advance every schedule to ``progress`` in [0, 1] of training; call it before a step, as often as you like.

        Raises:
            ValueError: progress outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is the fraction of training done, 0 to 1, got {progress}")
        for name, schedule in self._schedules().items():
            getattr(self, name).fill_(schedule(progress))

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        return to_arguments(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build an untrained layer from ``to_config``'s dictionary."""
        return cls(**from_arguments(config))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups at the network's rate ``lr``, without decay."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": 0.0}]

    # The frame

    def standardized(self, latents: Tensor) -> Tensor:
        """z = A (latents - m) / s, (..., D) -> (..., d)."""
        return self._project(self._scaled(latents))

    def unstandardized(self, z: Tensor) -> Tensor:
        """m + s B z, or B z for ``units="standardized"``: what the decoder reads for z, (..., d) -> (..., D)."""
        y = z if self.project_out is None else _linear(z, self.project_out)
        return self._unscaled(y) if self.units == "latents" else y

    def decoder_units(self, latents: Tensor) -> Tensor:
        """What the decoder would read for latents (..., D) without a code."""
        return self.unstandardized(self.standardized(latents))

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """Latents (..., D) for which ``decoder_units`` gives ``read``, (..., D), if there are any."""
        y = self._scaled(read) if self.units == "latents" else read
        if self.project_in is not None and self.project_out is not None:
            dtype = torch.promote_types(y.dtype, torch.float32)
            inverse = [torch.linalg.pinv(matrix.to(dtype)) for matrix in (self.project_in, self.project_out)]
            y = _linear(y, inverse[0] @ inverse[1])
        return self._unscaled(y)

    def _scaled(self, latents: Tensor) -> Tensor:
        """y = (latents - m) / s, (..., D)."""
        return (latents - self.mean.detach().to(latents.dtype)).div_(self._divisor(latents))

    def _unscaled(self, y: Tensor) -> Tensor:
        """m + s y, (..., D)."""
        return (y * self._divisor(y)).add_(self.mean.detach().to(y.dtype))

    def _divisor(self, like: Tensor) -> Tensor:
        """s, or one before it is known."""
        scale = self.scale.detach().to(like.dtype)
        return torch.where(scale > 0, scale, 1.0)

    def _project(self, y: Tensor) -> Tensor:
        """A y; but in a training step by a product in float64: in float32 another number of rows rounds differently."""
        if self.project_in is None:
            return y
        trains = self.training and torch.is_grad_enabled()
        exact = not (trains or torch.compiler.is_exporting() or y.device.type == "mps")
        return _linear(y.double() if exact else y, self.project_in).to(y.dtype)

    # Start and learning

    @property
    def started(self) -> bool:
        """Whether there is a codebook: it is zero before its start, and nothing on the meta device."""
        return not self.codebook.is_meta and bool(self.codebook.detach().any())

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start mean, scale, codebook and precision from latents (..., D), pooled over all ranks, by k-means.

        Every rank must call it together. With fewer vectors than codes the rest starts at random, with a warning.

        Raises:
            TypeError, ValueError: as ``forward``.
        """
        start_from(self, gather_rows(self._flat(latents, None)[0].detach()), seed)

    def set_codebook(
        self, codes: Tensor, *, latents: Tensor | None = None, frozen: bool | Tensor = False
    ) -> None:
        """Start from codes of one's own: text embeddings, k-means elsewhere, another library's codebook.

        Args:
            codes: (K, D), in the units of the latents; how the layer keeps them: ``quantizers/own_codebook.py``.
            latents: (..., D): mean, scale and precision are fitted to them (with ``standardize=False`` the
                precision alone); None: to the codes.
            frozen: which codes never move, (K,), boolean, or all of them. The precision still follows the latents.
                (A layer whose ``codebook`` requires no gradient stands still altogether.)

        Raises:
            TypeError, ValueError: codes of another shape, not finite, or ``frozen`` of another shape.

        Example:
            >>> words = torch.randn(256, 512)
            >>> codes = words @ torch.linalg.svd(words, full_matrices=False).Vh[:64].T  # to 64 features
            >>> quantizer = GaussianMixtureVQ(dim=64, codebook_size=256)
            >>> quantizer.set_codebook(codes, frozen=True)
        """
        set_codebook(self, codes, latents, frozen)

    def _held(self, codebook: Tensor) -> Tensor:
        """The codebook with frozen codes where they belong, whatever an optimizer did to them."""
        return codebook if self.frozen is None else torch.where(self.frozen.isnan(), codebook, self.frozen)

    @torch.no_grad()
    def settle(self) -> None:
        """Apply what the last training batch taught; ``eval()``, ``state_dict()`` and the next batch do this."""
        if self._pending is not None:
            (moments, frame, share), self._pending = self._pending, None
            assert moments is not None
            here = self.codebook.device  # the layer may have moved since
            moments, frame = Moments(*(part.to(here) for part in moments)), frame.to(here)
            learn(self, moments, share.to(self.share), (frame == self._frame().to(frame)).all())

    def _frame(self) -> Tensor:
        """A copy of what M-steps alone change: another value says that other weights were copied in since."""
        return torch.cat([value.detach() for value in (self.mean, self.scale, self.log_precision)])

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; eval mode settles what was learned, and starts what has not started."""
        if not mode and self.training and self._learns:
            self.settle()
            start_from_pool(self)
        for value in (self.mean, self.scale, self.log_precision):
            # M-steps alone move these, also where a loader made all parameters anew.
            value.requires_grad_(False)
        return super().train(mode)

    @property
    def _learns(self) -> bool:
        """Whether a forward in train mode changes the mixture; a frozen codebook says no."""
        return self.codebook.requires_grad

    def _has_codebook(self) -> bool:
        """Whether there is a codebook, without a look at the device once there is; compiled code needs one."""
        if not self._ready:
            refuse_compiled()
            self._ready = self.started
        return self._ready


def _projections(dim: int, codebook_dim: int) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """A (d, D) with orthonormal rows, B = A^T, until the start fits them to data; None where d = D."""
    if codebook_dim == dim:
        return None, None
    matrix = nn.init.orthogonal_(torch.empty(codebook_dim, dim))
    return nn.Parameter(matrix), nn.Parameter(matrix.T.contiguous())


def _linear(values: Tensor, matrix: Tensor) -> Tensor:
    """values @ matrix^T in the dtype of the values, whatever autocast says."""
    with torch.autocast(values.device.type, enabled=False):
        return F.linear(values, matrix.to(values.dtype))


def _look_again(module: Any, _: Any) -> None:
    """After weights were loaded: neither what was pending nor what was known holds any longer."""
    module._pending, module._pool = None, None
    module._ready = module.started


def _settle(module: Any, *_: Any) -> None:
    """Before weights are saved."""
    if module._learns:
        module.settle()

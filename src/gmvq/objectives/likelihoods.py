"""Likelihoods p(x|z) of an image given its reconstruction, in nats per image, with three kinds of scale."""

# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_positive
from ..functional.distributed import all_reduce_sum, world_size
from ..types import QuantizerOutput

Scale = Literal["ml", "learned"] | float


def _check_pair(reconstruction: Tensor, target: Tensor) -> None:
    for name, value in (("reconstruction", reconstruction), ("target", target)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise ValueError(
                f"{name} must be floating point, got {value.dtype}; for 8-bit images divide by 255 first"
            )
    if reconstruction.shape != target.shape:
        raise ValueError(
            f"reconstruction and target must have one shape, got {tuple(reconstruction.shape)} and "
            f"{tuple(target.shape)}; they are not broadcast, since that would count values twice"
        )
    if target.ndim < 2 or target.numel() == 0:
        raise ValueError(
            f"images must have shape (B, ...) with at least one value each, got {tuple(target.shape)}; "
            "add the batch axis with x[None]"
        )


class Likelihood(nn.Module):
    r"""Base of the likelihoods: n independent values per image, each of one location-scale family.

    ``likelihood(reconstruction, target)`` is -log p(x|z) in nats per image: all n values summed, mean over
    the batch. A subclass says how one value deviates, and how nats and the best scale follow from
    deviations.

    Args:
        scale: ``"ml"``: the maximum-likelihood value *of the batch*, so that no weight between reconstruction
            and codebook has to be chosen; ``"learned"``: the parameter ``log_scale``; a number: that
            constant.
        start: first value of the scale when it is learned, in units of the data.
        min_scale: floor under the maximum-likelihood scale, in units of the data; keeps a perfect
            reconstruction finite. Under the floor the loss is that of the constant scale ``min_scale``.

    Attributes:
        log_scale: 0-d, log of the *stored* scale: a parameter when learned, else a buffer. ``log_prob`` uses
            it. With ``"ml"`` it is written by ``observe`` and by nothing else; ``forward`` changes no state.

    Raises:
        ValueError: scale is neither a positive number nor one of the two words.
    """

    def __init__(self, scale: Scale = "ml", *, start: float = 0.1, min_scale: float = 1e-4) -> None:
        super().__init__()
        check_positive("start", start)
        check_positive("min_scale", min_scale)
        if isinstance(scale, str):
            check_choice("scale", scale, ("ml", "learned"))
        else:
            check_positive("scale", scale)
        self.scale, self.min_scale = scale, min_scale
        self.log_scale: Tensor
        self.observations: Tensor
        first = start if isinstance(scale, str) else float(scale)
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(math.log(first)))
        else:
            self.register_buffer("log_scale", torch.tensor(math.log(first)))
        self.register_buffer("observations", torch.zeros((), dtype=torch.int64))

    def deviation(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """What one value contributes: squared or absolute error, in the shape of the images."""
        raise NotImplementedError

    def nats(self, total_deviation: Tensor, n: int, log_scale: Tensor) -> Tensor:
        """-log p of n values with this summed deviation, nats."""
        raise NotImplementedError

    def best_log_scale(self, mean_deviation: Tensor) -> Tensor:
        """The maximum-likelihood log scale at this mean deviation."""
        raise NotImplementedError

    def _per_image(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, int]:
        """Summed deviation (B,) in at least float32, and n."""
        _check_pair(reconstruction, target)
        dtype = torch.promote_types(torch.promote_types(reconstruction.dtype, target.dtype), torch.float32)
        deviation = self.deviation(reconstruction.to(dtype), target.to(dtype))
        axes = tuple(range(1, deviation.ndim))  # no flatten: it would copy images in channels-last memory
        return deviation.sum(axes), deviation[0].numel()

    def _floored(self, mean_deviation: Tensor) -> Tensor:
        """The maximum-likelihood log scale, not under the floor."""
        return self.best_log_scale(mean_deviation).clamp_min(math.log(self.min_scale))

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """-log p(x|z), nats per image: the n values summed, mean over the batch.

        With ``"ml"`` the scale is a constant for autograd. The gradient is nevertheless that of the
        profiled likelihood, because at its optimum the derivative with respect to the scale is zero. In
        training mode several processes share one scale, that of all their images, and what each returns
        averages over processes to the mean over all images, whatever each holds: N processes equal one.
        Several accumulated batches each use their own.

        Args:
            reconstruction: Dec(z), (B, ...).
            target: x, the same shape.

        Returns:
            Scalar in at least float32.

        Raises:
            ValueError: shapes differ, or images are not floating point.
        """
        total, n = self._per_image(reconstruction, target)
        mean, whole = total.mean(), total.detach().mean()
        if self.training and world_size() > 1:
            sums = all_reduce_sum(torch.stack([total.detach().sum(), total.new_tensor(float(total.numel()))]))
            mean, whole = total.sum() * world_size() / sums[1], sums[0] / sums[1]
        log_scale = self._floored(whole / n) if self.scale == "ml" else self.log_scale.to(total)
        return self.nats(mean, n, log_scale)

    def log_prob(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """log p(x|z) of each image at the stored scale, (B, ...) x 2 -> (B,), nats.

        Bounds need this form: a scale read off the images that are being scored is not part of the model.

        Raises:
            RuntimeError: the scale is ``"ml"`` and ``observe`` was never called.
            ValueError: as ``forward``.
        """
        if self.scale == "ml" and int(self.observations) == 0:
            raise RuntimeError(
                "the stored scale of this likelihood was never set: call "
                "likelihood.observe(reconstruction, target) on training data before log_prob"
            )
        total, n = self._per_image(reconstruction, target)
        return -self.nats(total, n, self.log_scale.to(total.dtype))

    @torch.no_grad()
    def observe(self, reconstruction: Tensor, target: Tensor, momentum: float = 0.99) -> None:
        r"""Move the stored scale towards the batch's: an exponential average of the mean deviation.

        Called by the training loop, never by ``forward``. The first call sets the scale; ``momentum=0``
        sets it at any time, for instance to the value over a training set at the end. No effect unless the
        scale is ``"ml"``, so a loop may call it always. No collective: give it gathered images, or call it
        on rank 0 and broadcast ``state_dict``, if ranks must agree to the last digit.

        Args:
            reconstruction: Dec(z), (B, ...).
            target: x, the same shape.
            momentum: weight of the past, in [0, 1).

        Raises:
            ValueError: as ``forward``, or momentum is not in [0, 1).
        """
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        total, n = self._per_image(reconstruction, target)
        if self.scale != "ml":
            return
        past = torch.where(self.observations == 0, 0.0, momentum)
        mean = total.mean() / n
        mixed = past * self.mean_deviation(self.log_scale.to(total.dtype)) + (1.0 - past) * mean
        self.log_scale.copy_(self._floored(mixed))
        self.observations += 1

    def mean_deviation(self, log_scale: Tensor) -> Tensor:
        """The mean deviation at which ``log_scale`` is best: the inverse of ``best_log_scale``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"scale={self.scale!r}"


class GaussianLikelihood(Likelihood):
    r"""x | z ~ N(Dec(z), s_x^2 I): squared error, in nats.

    .. math:: -\log p(x|z) = \tfrac{n}{2} \log(2 \pi s_x^2) + \frac{|x - Dec(z)|^2}{2 s_x^2}

    At the maximum-likelihood s_x^2 = MSE of the batch this is n/2 (log(2 pi MSE) + 1), with the gradient
    n/2 * grad log MSE = n / (2 MSE) * grad MSE: the weight on the squared error follows from the error
    itself. Units: nats per image. ``scale`` is s_x, a standard deviation in units of the data. Limits: MSE
    -> 0 ends at the floor ``min_scale``; a *learned* scale has no floor and may diverge on data it can fit
    exactly. See docs/mathematics.md, "The likelihood of an image".

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> GaussianLikelihood()(images + 0.1, images).shape
        torch.Size([])
    """

    def deviation(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (reconstruction - target).square()

    def nats(self, total_deviation: Tensor, n: int, log_scale: Tensor) -> Tensor:
        constant = n * (0.5 * math.log(2.0 * math.pi) + log_scale)
        return constant + 0.5 * total_deviation * (-2.0 * log_scale).exp()

    def best_log_scale(self, mean_deviation: Tensor) -> Tensor:
        return 0.5 * mean_deviation.log()

    def mean_deviation(self, log_scale: Tensor) -> Tensor:
        return (2.0 * log_scale).exp()


class LaplaceLikelihood(Likelihood):
    r"""x | z ~ Laplace(Dec(z), b): absolute error, in nats.

    .. math:: -\log p(x|z) = n \log(2 b) + \frac{|x - Dec(z)|_1}{b}

    At the maximum-likelihood b = mean absolute error of the batch this is n (log(2 MAE) + 1), with the
    gradient n * grad log MAE. Units: nats per image. ``scale`` is b, in units of the data. Limits as in
    ``GaussianLikelihood``.

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> LaplaceLikelihood(0.1).log_prob(images + 0.1, images).shape
        torch.Size([4])
    """

    def deviation(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (reconstruction - target).abs()

    def nats(self, total_deviation: Tensor, n: int, log_scale: Tensor) -> Tensor:
        return n * (math.log(2.0) + log_scale) + total_deviation * (-log_scale).exp()

    def best_log_scale(self, mean_deviation: Tensor) -> Tensor:
        return mean_deviation.log()

    def mean_deviation(self, log_scale: Tensor) -> Tensor:
        return log_scale.exp()


def positions_per_image(output: QuantizerOutput) -> Tensor:
    """Mean number P of valid latent positions per image: a 0-d float tensor, without a device sync.

    A position is valid where its index is not -1. Further trailing axes of ``indices`` (levels of a residual
    quantizer) belong to the same position.

    Raises:
        ValueError: ``indices`` have fewer axes than the positions of ``quantized``.
    """
    valid = output.indices != -1
    axes = output.quantized.ndim - 1
    if axes < 1 or valid.ndim < axes:
        raise ValueError(
            "positions per image need latents with a batch axis, (B, ..., D); got quantized of shape "
            f"{tuple(output.quantized.shape)} and indices of shape {tuple(output.indices.shape)}"
        )
    if valid.ndim > axes:
        valid = valid.flatten(axes).any(-1)
    return valid.sum().to(output.nats.dtype) / valid.shape[0]


def negative_evidence(
    likelihood: Likelihood, reconstruction: Tensor, target: Tensor, output: QuantizerOutput
) -> Tensor:
    r"""The exact objective: -log p(x|z) + P * nats, in nats per image.

    .. math:: -\log p(x|z) + P (\gamma \cdot \text{latent} + \beta \cdot KL)

    Everything is in nats, so no weight stands between reconstruction and codebook, and ``output.nats`` is
    taken with its plain gradient (``output.loss``, which is converted to the units of another loss, is not
    used). With the ELBO's KL and gamma = beta = 1 its expectation bounds -log p(x) from above up to the two
    relaxations of training (docs/mathematics.md); with the ALBO's it may lie under it by at most P log K.

    Args:
        likelihood: gives -log p(x|z) per image.
        reconstruction: Dec(z), (B, ...).
        target: x, the same shape.
        output: of the quantizer in training mode, its batch axis first.

    Returns:
        Scalar, nats per image, mean over the batch; in training mode the mean over processes of what they return is
        that over all images.
    """
    images = target.shape[0] if target.ndim else 0
    if output.quantized.shape[0] != images:
        raise ValueError(
            f"target holds {images} images and the quantizer output {output.quantized.shape[0]}: the first "
            "axis of both must be the batch"
        )
    positions = positions_per_image(output)
    if likelihood.training and world_size() > 1:
        counts = torch.stack([positions * images, torch.full_like(positions, images)])
        valid, total = all_reduce_sum(counts)
        positions = valid / total
    return likelihood(reconstruction, target) + positions * output.nats

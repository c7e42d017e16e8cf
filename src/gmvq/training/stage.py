"""``Stage``: what a training minimises beside its bound, a perceptual distance and a discriminator's judgement."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evaluation.extractors import WIDTHS, EfficientNetLite
from .critic import Adversarial, Critic, adaptive_weight


def perceptual_distance(maps: list[Tensor], others: list[Tensor]) -> Tensor:
    r"""Distance of two images by features of unit length, as LPIPS with equal weights (arXiv 1801.03924), 0 to 4.

    .. math:: d(x, y) = \frac1L \sum_l \frac1{H_l W_l} \sum_p \left| f_{lp}(x) - f_{lp}(y) \right|^2

    ``maps`` and ``others`` are f_l(x) and f_l(y) of L layers, (B, C_l, H_l, W_l), of length 1 at each position p. The
    mean over the batch, 0-d.
    """
    pairs = zip(maps, others, strict=True)
    return torch.stack([(x - y).square().sum(1).mean() for x, y in pairs]).mean()


def build_stage(
    perceptual: float, adversarial: Adversarial, channels: int, spatial_dims: int, seed: int
) -> Stage | None:
    """The stage of these options; None where all weights are 0.

    Raises:
        ValueError: a negative weight, or data that are no images.
        MissingExtraError: as ``Stage``.
    """
    if not 0 <= perceptual < math.inf:
        raise ValueError(f"perceptual must not be negative or infinite, got {perceptual}")
    if not (perceptual or adversarial.weight):
        return None
    if spatial_dims != 2:
        raise ValueError(
            "perceptual and adversarial are for images; leave them at 0 for signals and volumes (spatial_dims is "
            f"{spatial_dims})"
        )
    return Stage(perceptual, adversarial, channels, seed)


class Stage(nn.Module):
    """The terms that are added to the bound, per value of an image.

    The extractor is no submodule: checkpoints, optimizers and averages do not see it.

    Args:
        perceptual: weight of the perceptual distance; 0: none.
        adversarial: the discriminator's options.
        channels: of the images.
        seed: of the discriminator's first weights.

    Raises:
        MissingExtraError: the packaged extractor is needed and is not installed.
    """

    def __init__(self, perceptual: float, adversarial: Adversarial, channels: int, seed: int) -> None:
        super().__init__()
        self.perceptual = perceptual
        on_features = adversarial.weight > 0 and adversarial.sees == "features"
        with torch.random.fork_rng(devices=[]):
            self._extractor = [EfficientNetLite()] if perceptual or on_features else []
        views = WIDTHS if on_features else (channels,)
        self.critic = Critic(adversarial, views, seed) if adversarial.weight else None

    def forward(
        self, images: Tensor, reconstruction: Tensor, loss: Tensor, decoder: nn.Module, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss, whose gradients are each part's own, and its terms by name.

        ``images`` and ``reconstruction`` are (B, C, H, W) on the scale [0, 1], ``loss`` is the bound, 0-d; the adaptive
        weight looks at the last layer of ``decoder``. ``progress`` is the share of the training that is done.
        """
        judged = self.judges(progress)
        terms: dict[str, Tensor] = {}
        images = images.to(reconstruction.dtype)
        real, fake = [2.0 * images - 1.0], [2.0 * reconstruction - 1.0]
        critic = self.critic
        if self._extractor and (self.perceptual or judged):
            maps = self._maps(images), self._maps(reconstruction)
            if self.perceptual:
                distance = perceptual_distance(*maps)
                loss, terms["perceptual"] = loss + self.perceptual * distance, distance.detach()
            if critic is not None and critic.options.sees == "features":
                real, fake = maps
        if critic is None:
            return loss, terms
        if not judged:
            # Several processes expect a gradient of every parameter.
            return loss + 0.0 * torch.stack([value.sum() for value in critic.parameters()]).sum(), terms
        views = ([view.to(critic.averages) for view in each] for each in (real, fake))
        adversarial, judgement = critic(*views)
        weight = torch.as_tensor(critic.options.weight).to(loss)
        if critic.options.adaptive:
            weight = weight * adaptive_weight(loss, adversarial, decoder)
        terms |= {"adversarial": adversarial, "adversarial_weight": weight, "critic": judgement}
        terms = {name: value.detach() for name, value in terms.items()}
        return loss + weight * adversarial + judgement, terms

    def judges(self, progress: float) -> bool:
        """Whether the discriminator has begun."""
        return self.critic is not None and progress >= self.critic.options.start

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's group of the discriminator, if there is one; short averages, as its aim moves."""
        if self.critic is None:
            return []
        options: dict[str, Any] = {"lr": self.critic.options.lr, "betas": (0.5, 0.99), "weight_decay": 0.0}
        return [{"params": list(self.critic.parameters()), **options}]

    def forget_gradients(self, progress: float) -> None:
        """Before its start the discriminator has gradients of zero; Adam does not count steps without any."""
        if not self.judges(progress):
            for parameter in self.parameters():
                parameter.grad = None

    def _maps(self, images: Tensor) -> list[Tensor]:
        extractor = self._extractor[0].to(images)
        return [F.normalize(found.to(images.dtype), dim=1) for found in extractor.layers(images)]

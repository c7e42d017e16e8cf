"""What a training minimises beside its bound: a perceptual distance, and the judgement of a discriminator.

Both losses of an adversarial step are made in one pass and minimised by one optimizer. Each reaches its own weights
alone: the discriminator learns from a reconstruction without a history, and judges it for the decoder with constant
weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import check_choice, check_positive
from ..evaluation.extractors import WIDTHS, EfficientNetLite
from ..functional.distributed import all_reduce_sum, world_size

#: What an average of the discriminator's outputs keeps in a step.
_DECAY = 0.99


@dataclass(frozen=True)
class Adversarial:
    """The discriminator's options; with weight 0 there is none.

    Args:
        weight: weight of the adversarial term; with ``adaptive`` it is relative to the rest of the loss, such as 0.5.
        sees: what is judged: "pixels" (a PatchGAN), or "features" of the packaged EfficientNet-Lite0 at four scales.
        start: share of the training that runs without it, 0 to 1.
        adaptive: multiply the weight by the ratio of the two gradients' norms at the decoder's last layer.
        lecam: weight of LeCam regularisation of the discriminator; 0: none.
        width: channels of the discriminator's first layer.
        lr: highest learning rate of the discriminator.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from gmvq.training import TokenizerModule
        >>> module = TokenizerModule(adversarial=Adversarial(0.5, start=0.3))
    """

    weight: float = 0.0
    sees: Literal["pixels", "features"] = "pixels"
    start: float = 0.5
    adaptive: bool = True
    lecam: float = 0.001
    width: int = 32
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_choice("adversarial.sees", self.sees, ("pixels", "features"))
        check_positive("adversarial.width", self.width)
        check_positive("adversarial.lr", self.lr)
        if not (0 <= self.weight < math.inf and 0 <= self.lecam < math.inf and 0 <= self.start <= 1):
            raise ValueError(
                "adversarial: expected weight >= 0, lecam >= 0 and 0 <= start <= 1, got "
                f"{self.weight}, {self.lecam} and {self.start}"
            )


class Critic(nn.Module):
    r"""Discriminators D_i of several views of an image, the hinge loss, and LeCam regularisation.

    .. math:: L_D = \tfrac12 E [1 - D(x)]_+ + \tfrac12 E [1 + D(\hat x)]_+
              + \lambda \left( E [D(x) - a_{\hat x}]_+^2 + E [a_x - D(\hat x)]_+^2 \right), \quad L_G = -E D(\hat x)

    a_x and a_xhat are moving averages of D(x) and D(xhat) (Tseng et al. 2021, arXiv 2104.03310). E is over images
    and places, then over the views, which are maps (B, channels[i], H_i, W_i). ``averages`` are a_x and a_xhat, (2,).
    """

    averages: Tensor

    def __init__(self, options: Adversarial, channels: tuple[int, ...], seed: int) -> None:
        super().__init__()
        self.options = options
        build = _patches if options.sees == "pixels" else _head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(build(count, options.width) for count in channels)
        self.register_buffer("averages", torch.zeros(2))

    def forward(self, real: list[Tensor], fake: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(L_G, L_D) of views of images and of their reconstructions; in training mode the averages move."""
        for_decoder = [
            functional_call(head, {name: value.detach() for name, value in head.named_parameters()}, (view,))
            for head, view in zip(self.heads, fake, strict=True)
        ]
        of_real, of_fake = (
            [head(view.detach()) for head, view in zip(self.heads, views, strict=True)]
            for views in (real, fake)
        )
        loss = 0.5 * (_mean([F.relu(1.0 - d) for d in of_real]) + _mean([F.relu(1.0 + d) for d in of_fake]))
        if self.options.lecam:
            past_real, past_fake = self.averages.clone().unbind()
            above = [F.relu(d - past_fake).square() for d in of_real]
            below = [F.relu(past_real - d).square() for d in of_fake]
            loss = loss + self.options.lecam * (_mean(above) + _mean(below))
        if self.training:
            means = torch.stack([_mean(of_real), _mean(of_fake)]).detach()
            self.averages.lerp_((all_reduce_sum(means) / world_size()).to(self.averages), 1.0 - _DECAY)
        return -_mean(for_decoder), loss


def adaptive_weight(loss: Tensor, adversarial: Tensor, decoder: nn.Module) -> Tensor:
    """|grad_L loss| / (|grad_L adversarial| + 1e-6), at most 1e4, a constant (Esser et al. 2021, arXiv 2012.09841).

    ``loss`` is that of the reconstruction and ``adversarial`` L_G, both 0-d; over processes their means count. L is the
    weight matrix or kernel that the decoder registers last.
    """
    weights = [value for value in decoder.parameters() if value.ndim > 1 and value.requires_grad]
    if not weights:
        raise ValueError(
            "model.adversarial.adaptive compares gradients at the decoder's last layer, and the decoder has no weight "
            "that is trained; set model.adversarial.adaptive=false"
        )
    grads = [torch.autograd.grad(value, weights[-1], retain_graph=True)[0] for value in (loss, adversarial)]
    norms = all_reduce_sum(torch.stack(grads)).flatten(1).norm(dim=1) / world_size()
    return (norms[0] / (norms[1] + 1e-6)).clamp(max=1e4)


def _mean(logits: list[Tensor]) -> Tensor:
    return torch.stack([values.mean() for values in logits]).mean()


def _patches(channels: int, width: int) -> nn.Sequential:
    """Logits of overlapping patches of 26 pixels, every fourth pixel (Isola et al. 2017, arXiv 1611.07004)."""
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(1, 2 * width), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(2 * width, 4 * width, 3, 1, 1), nn.GroupNorm(1, 4 * width), nn.LeakyReLU(0.2)),
        nn.Conv2d(4 * width, 1, 3, 1, 1),
    )


def _head(channels: int, width: int) -> nn.Sequential:
    """Logits of every place of a map of features."""
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, 1, 1), nn.GroupNorm(1, width), nn.LeakyReLU(0.2)),
        nn.Conv2d(width, 1, 1),
    )


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
    """The stage of these options; None where all weights are 0."""
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
    """The terms that are added to the bound, per value of an image; one of weight 0 is left out.

    The extractor is no submodule: checkpoints, optimizers and averages do not see it.
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

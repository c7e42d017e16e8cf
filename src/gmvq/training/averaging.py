"""``AveragedWeights``: a moving average of everything that is learned, which is what gets measured and shipped.

After optimizer step t, with theta the parameters of the networks, the codebook, and the layer's mean, scale and
precision,

    average_t = d_t average_(t-1) + (1 - d_t) theta_t,    d_t = min(decay, (1 + n) / (10 + n)),

with n the updates so far, so that the average of a short training is not that of its beginning (Tan and Le, 2019, as
in TensorFlow's ExponentialMovingAverage). Buffers (counts, schedules, where frozen codes stand) are copied.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from ..quantizers import GaussianMixtureVQ


class AveragedWeights(WeightAveraging):
    """Keep the average beside the training; validate, save and export it. The training itself stays as it is.

    A checkpoint holds the average as ``state_dict`` and the weights in training as ``current_model_state``, from which
    a resumed run goes on bit for bit. Until the codebook has started the average is a copy: half of a codebook is none.

    Put it in front of callbacks that write checkpoints.

    Args:
        decay: share of the former average that a step leaves, between 0 and 1; the average is over the last
            1 / (1 - decay) steps or so.

    Raises:
        ValueError: decay out of range; parameters that are divided among processes (fsdp).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[AveragedWeights(0.99)], use_distributed_sampler=False)
    """

    def __init__(self, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"the decay of averaged weights must lie between 0 and 1, got {decay}")
        super().__init__(use_buffers=False, multi_avg_fn=_toward(decay))
        self._has_codebook = self._swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise ValueError(
                "averaged weights need whole parameters on every process; use strategy=ddp or --average 0"
            )
        self._device = trainer.strategy.root_device
        with warnings.catch_warnings():  # that the networks may be divided: they are not
            warnings.filterwarnings("ignore", message=".*overrides the configure_model.*")
            super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # of the type that the module will have, such as with 64-true
            trainer.precision_plugin.convert_module(self._average_model)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *more: Any, **named: Any
    ) -> None:
        for part in _mixtures(pl_module):
            part.settle()
        self._copy_until_started()
        super().on_train_batch_end(trainer, pl_module, *more, **named)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As at the end of training, also where a run goes on at its last step and no step is made."""
        self.on_train_end(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average. Eval mode may just have started the codebook of the weights in training."""
        if self._average_model is not None and self._copy_until_started():
            self._average_model.update_parameters(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Also in the middle of a validation, where a signal stopped the run and the module holds the average."""
        if self._swapped:
            # The tensors of checkpoint["state_dict"] are the module's own.
            self._swap_models(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        current = checkpoint.get("current_model_state", {})
        # No average of a discriminator is kept.
        checkpoint["state_dict"] |= {
            name: value for name, value in current.items() if name.startswith("stage.")
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._has_codebook = False
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: LightningModule) -> None:
        self._swapped = not self._swapped
        super()._swap_models(pl_module)

    def _copy_until_started(self) -> bool:
        """Make the next update a copy as long as the average has no codebook; return whether it is one."""
        assert self._average_model is not None
        if not self._has_codebook:
            self._has_codebook = all(part.started for part in _mixtures(self._average_model))
            if not self._has_codebook:
                self._average_model.n_averaged.zero_()
        return not self._has_codebook


def _mixtures(module: nn.Module) -> list[GaussianMixtureVQ]:
    return [part for part in module.modules() if isinstance(part, GaussianMixtureVQ)]


def _toward(decay: float) -> Any:
    """One step of every parameter's average, in place, given how many there were."""

    @torch.no_grad()
    def step(averages: list[Tensor], current: list[Tensor], number: Tensor) -> None:
        n = int(number)
        torch._foreach_lerp_(averages, current, 1.0 - min(decay, (1 + n) / (10 + n)))

    return step

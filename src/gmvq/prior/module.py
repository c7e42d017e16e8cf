"""``PriorModule``: how a ``TokenPrior`` is trained, as a LightningModule whose arguments are the config's."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ..errors import check_positive, check_seed
from ..training.checkpoint import check_fits, entry_of
from ..training.loggers import is_logged
from ..training.optimizer import scheduled, seed_step, total_steps
from .prior import TokenPrior
from .spec import TokenSpec


class PriorModule(LightningModule):
    """Train a prior on tokens: AdamW, warm-up and cosine, labels left out of some rows so that guidance works.

    The chance in a step is a function of (seed, rank, number of the batch), so a resumed run equals an uninterrupted
    one.

    Args:
        spec: what the tokens are.
        kind: causal (raster order, exact likelihood) or masked (bidirectional, MaskGIT decoding).
        size: of the network: tiny (for a CPU), small or base.
        dropout: rate in the network.
        label_dropout: share of rows whose label is left out.
        lr: highest learning rate.
        betas: decay rates of Adam's two averages.
        weight_decay: decoupled weight decay of matrices.
        warmup_steps: steps over which the learning rate rises.
        final_lr: learning rate at the end as a share of the highest.
        seed: of the first weights, the dropout and the masks.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        spec: TokenSpec,
        kind: Literal["causal", "masked"] = "causal",
        size: Literal["tiny", "small", "base"] = "tiny",
        dropout: float = 0.0,
        label_dropout: float = 0.1,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        final_lr: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("lr", lr)
        shares = 0 <= dropout < 1 and 0 <= label_dropout <= 1 and 0 <= final_lr <= 1
        if not (shares and weight_decay >= 0 and warmup_steps >= 0):
            raise ValueError(
                "expected dropout in [0, 1), label_dropout and final_lr in [0, 1], weight_decay and warmup_steps >= 0, "
                f"got {dropout}, {label_dropout}, {final_lr}, {weight_decay} and {warmup_steps}"
            )
        check_seed(seed)
        names = set(inspect.signature(PriorModule.__init__).parameters) - {"self", "spec"}
        given = {name: value for name, value in locals().items() if name in names}
        self.settings: dict[str, Any] = {**given, "betas": list(betas)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.prior = TokenPrior(spec, kind, size, dropout)
        self._batches = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.settings["weight_decay"]},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings["lr"], betas=tuple(self.settings["betas"]))
        warmup, final = self.settings["warmup_steps"], self.settings["final_lr"]
        return scheduled(optimizer, total_steps(self.trainer), warmup=warmup, final=final)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_step(self.settings["seed"], self.global_rank, self._batches, self.device)
        self._batches += 1

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        labels = None
        if self.prior.spec.labels:
            kept = torch.rand(len(batch["label"]), device=self.device) >= self.settings["label_dropout"]
            labels = torch.where(kept, batch["label"], -1)
        loss = self.prior.loss(batch["indices"], labels)
        if is_logged(self.trainer, self.global_step + 1):
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.log_dict({"train/bits_per_token": loss.detach() / math.log(2), "train/lr": rate})
        return loss

    def on_validation_epoch_start(self) -> None:
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, device=self.device, dtype=dtype)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        labels = batch["label"] if self.prior.spec.labels else None
        nats = self.prior.nats(batch["indices"], labels, seed=batch_idx)
        self._sums[0] += nats.sum()
        self._sums[1] += len(nats)

    def on_validation_epoch_end(self) -> None:
        nats, images = torch.as_tensor(self.trainer.strategy.reduce(self._sums, reduce_op="sum")).tolist()
        bits = nats / images / self.prior.spec.length / math.log(2)
        self.log("validation/bits_per_token", bits, rank_zero_only=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gmvq"] = entry_of(self, "prior", self.prior.to_config(), batches=self._batches)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_fits(checkpoint, self.state_dict(), self.settings)
        self._batches = int(checkpoint["gmvq"]["batches"])

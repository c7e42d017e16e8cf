"""``TokenizerModule``: how a `VQAutoencoder` is trained, as a LightningModule whose arguments are the config's."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ..errors import check_choice, check_positive
from ..evaluation.metrics import psnr
from ..functional.divergences import perplexity
from ..functional.estimators import Estimator
from ..models.autoencoder import VQAutoencoder
from ..models.nets import build_networks
from ..objectives import GaussianLikelihood, LaplaceLikelihood, negative_evidence
from ..quantizers import GaussianMixtureVQ, GroupedGMVQ, Quantizer, ResidualGMVQ
from ..quantizers.parts import Objective, Precision, Variance
from ..quantizers.start import Pool
from .checkpoint import FORMAT_VERSION, check_fits, describe_model
from .choices import as_plain
from .history import is_logged
from .schedule import learning_rate_factor, seed_step

_LIKELIHOODS = {"gaussian": GaussianLikelihood, "laplace": LaplaceLikelihood}
_QUANTIZER = {name: p.default for name, p in inspect.signature(GaussianMixtureVQ).parameters.items()}


class TokenizerModule(LightningModule):
    """Train a tokenizer on its exact objective: nats per image, divided by the n values of an image.

    The noise of a step is a function of (seed, rank, number of the batch) and every schedule one of the global
    step, so a resumed run equals an uninterrupted one.

    Args:
        network: size of the encoder and decoder: tiny (for a CPU), small or base.
        channels: channels of the images: 3 (RGB) or 1 (grey); of signals: as many as they have.
        downsample: pixels per latent position along each axis: 4, 8 or 16.
        dim: features per latent position.
        codebook_size: number of codes, of each level or group.
        codebook_dim: dimensions that the codebook lives in, between two learned maps; none: dim.
        num_quantizers: levels of a residual quantizer; 1: a single code per position.
        groups: groups of features with a code each; 1: a single code per position.
        shared_codebook: one codebook for all levels or groups.
        level_dropout: train on random prefixes of the levels, so that any prefix can be decoded.
        objective: which bound is trained on, and the weights gamma and beta of its terms.
        precision: how the precision of the mixture's components is fitted, and its sharpening over training.
        variance: the variance of a code given the image, and its noise over training.
        estimator: gradient estimator for the choice of a code, such as "GumbelSoftmax(temperature=0.5)".
        mixture_weights: uniform, or learned.
        standardize: standardise the encoder's output in front of the quantizer.
        likelihood: of a pixel: gaussian (squared error) or laplace (absolute error).
        likelihood_scale: standard deviation of a pixel (0 to 1): "ml" (best for the batch), "learned" or a number.
        lr: highest learning rate of the networks.
        betas: decay rates of Adam's two averages.
        weight_decay: decoupled weight decay of the networks' weights.
        warmup_steps: steps over which the learning rate rises.
        final_lr: learning rate at the end as a share of the highest.
        seed: of the first weights and of the noise.
        spatial_dims: 2 for images, 1 for signals: recordings and time series.
        autoencoder: a model of your own, which then replaces everything about networks and quantizer above.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> module = TokenizerModule("tiny", codebook_size=256)
        >>> trainer = lightning.Trainer(max_steps=1000, use_distributed_sampler=False)
        >>> trainer.fit(module, ImageDataModule("photos"))
        >>> module.model.save_pretrained("model")
    """

    def __init__(
        self,
        network: Literal["tiny", "small", "base"] = "tiny",
        channels: int = 3,
        downsample: int = 4,
        dim: int = 4,
        codebook_size: int = 256,
        codebook_dim: int | None = None,
        num_quantizers: int = 1,
        groups: int = 1,
        shared_codebook: bool = False,
        level_dropout: bool = False,
        objective: Objective = _QUANTIZER["objective"],
        precision: Precision = _QUANTIZER["precision"],
        variance: Variance = _QUANTIZER["variance"],
        estimator: Estimator = _QUANTIZER["estimator"],
        mixture_weights: Literal["uniform", "learned"] = _QUANTIZER["mixture_weights"],
        standardize: bool = _QUANTIZER["standardize"],
        likelihood: Literal["gaussian", "laplace"] = "gaussian",
        likelihood_scale: Literal["ml", "learned"] | float = "ml",
        lr: float = 4e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        warmup_steps: int = 50,
        final_lr: float = 0.02,
        seed: int = 0,
        spatial_dims: Literal[1, 2, 3] = 2,
        autoencoder: VQAutoencoder | None = None,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name in _arguments()}
        self.settings = {name: as_plain(value) for name, value in given.items()}
        check_positive("lr", lr)
        check_choice("likelihood", likelihood, tuple(_LIKELIHOODS))
        if warmup_steps < 0 or weight_decay < 0 or not 0 <= final_lr <= 1:
            raise ValueError(
                "expected warmup_steps >= 0, weight_decay >= 0 and 0 <= final_lr <= 1, got "
                f"{warmup_steps}, {weight_decay} and {final_lr}"
            )
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.warmup_steps, self.final_lr, self.seed = warmup_steps, final_lr, seed
        if autoencoder is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder, decoder = build_networks(
                    network, channels=channels, dim=dim, downsample=downsample, spatial_dims=spatial_dims
                )
                quantizer = _build_quantizer(
                    dim,
                    codebook_size,
                    num_quantizers,
                    groups,
                    shared_codebook,
                    level_dropout,
                    codebook_dim=codebook_dim,
                    objective=objective,
                    precision=precision,
                    variance=variance,
                    estimator=estimator,
                    mixture_weights=mixture_weights,
                    standardize=standardize,
                )
                autoencoder = VQAutoencoder(encoder, quantizer, decoder)
        self.model = autoencoder
        for net in (self.model.encoder, self.model.decoder):
            _channels_last(net)
        self.likelihood = _LIKELIHOODS[likelihood](likelihood_scale)
        self._batches = 0  # batches this process has trained on since training began
        self._pools: dict[str, Tensor] = {}  # of a checkpoint: the latents that each mixture starts from
        self._total: int | None = None
        self._validation: dict[str, Tensor] = {}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam over the model's own parameter groups and the likelihood's scale, with warm-up and cosine."""
        quantizer: nn.Module = self.model.quantizer  # pyright: ignore[reportAssignmentType]
        quantized = {id(parameter) for parameter in quantizer.parameters()}
        groups = self.model.parameter_groups(self.lr)
        for group in groups:
            own = any(id(parameter) in quantized for parameter in group["params"])
            group.setdefault("weight_decay", 0.0 if own else self.weight_decay)
        scale = [parameter for parameter in self.likelihood.parameters() if parameter.requires_grad]
        if scale:
            groups.append({"params": scale, "lr": self.lr, "weight_decay": 0.0})
        # One fused pass per parameter. Lightning refuses to clip gradients for it, so clipping keeps the plain one.
        fused = True if _can_fuse(groups) and not self._clips_gradients else None
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, weight_decay=0.0, fused=fused)
        optimizer.register_load_state_dict_post_hook(_match_memory_formats)
        total, warmup, final = self.total_steps, self.warmup_steps, self.final_lr
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total=total, warmup=warmup, final=final)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _clips_gradients(self) -> bool:
        trainer = self._trainer
        return trainer is not None and bool(trainer.gradient_clip_val)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training, by the trainer's max_steps and max_epochs.

        Raises:
            ValueError: the trainer has no such limit, so schedules have no end to aim at.
        """
        if self._total is None:
            steps = self.trainer.estimated_stepping_batches
            if not 0 < steps < math.inf:
                raise ValueError(
                    f"the schedules need to know how long training is, got {steps} steps; "
                    "give trainer.max_steps or trainer.max_epochs"
                )
            self._total = int(steps)
        return self._total

    def _mixtures(self) -> dict[str, GaussianMixtureVQ]:
        found = self.model.named_modules()
        return {name: part for name, part in found if isinstance(part, GaussianMixtureVQ)}

    def on_fit_start(self) -> None:
        """Give a resumed run back the latents that its codebook will start from."""
        parts = self._mixtures()
        for name, rows in self._pools.items():
            pool = parts[name]._pool = Pool(parts[name].codebook_size)
            pool.add(rows.to(self.device))
        self._pools = {}

    def on_train_start(self) -> None:
        """Refuse what would be lost: a start inside of a step writes to gathered copies of sharded parameters."""
        shards = type(self.trainer.strategy).__name__ in ("FSDPStrategy", "ModelParallelStrategy")
        if shards and not all(part.started for part in self._mixtures().values()):
            raise ValueError(
                "the first batch cannot start a codebook whose parameters are sharded; call "
                "module.model.quantizer.init_codebook(latents) before training, or use strategy=ddp"
            )

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        seed_step(self.seed, self.global_rank, self._batches, self.device)
        self._batches += 1
        advance: Callable[[float], None] | None = getattr(self.model.quantizer, "set_progress", None)
        if advance is not None:
            advance(min(1.0, self.global_step / self.total_steps))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        images = _in_fastest_format(batch)
        out = self.model(images)
        reconstruction = out.reconstruction.float()
        nats = negative_evidence(self.likelihood, reconstruction, images, out.quantizer)
        loss = nats / images[0].numel()
        with torch.no_grad():
            self.likelihood.observe(reconstruction, images)
            if is_logged(self.trainer, self.global_step + 1):
                mse = (reconstruction - images).square().mean()
                rate = self.trainer.optimizers[0].param_groups[0]["lr"]
                terms = {"loss": loss.detach(), "mse": mse, "lr": rate, **out.quantizer.terms}
                self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return loss

    def on_validation_epoch_start(self) -> None:
        size = self.model.quantizer.codebook_size
        self._validation = {
            "mse": torch.zeros((), device=self.device),
            "images": torch.zeros((), device=self.device),
            "codes": torch.zeros(size, device=self.device, dtype=torch.int64),
        }

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        images = _in_fastest_format(batch)
        out = self.model(images)
        error = out.reconstruction.float().clamp(0.0, 1.0) - images
        indices = out.quantizer.indices.flatten()
        sums = self._validation
        sums["mse"] += error.square().flatten(1).mean(1).sum()
        sums["images"] += images.shape[0]
        sums["codes"] += torch.bincount(indices[indices >= 0], minlength=sums["codes"].numel())

    def on_validation_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        sums = {name: strategy.reduce(value, reduce_op="sum") for name, value in self._validation.items()}
        codes = torch.as_tensor(sums["codes"])
        mse = float(sums["mse"] / sums["images"])
        values = {
            "validation/mse": mse,
            "validation/psnr": psnr(mse),
            "validation/perplexity": float(perplexity(codes.float())),
            "validation/usage": float((codes > 0).float().mean()),
        }
        self.log_dict(values, rank_zero_only=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model, as JSON: the file stays loadable with weights_only=True."""
        checkpoint["gmvq"] = {
            "format_version": FORMAT_VERSION,
            "model": json.dumps(describe_model(self.model)),
            "settings": json.dumps(self.settings),
            "data": json.dumps(getattr(getattr(self.trainer, "datamodule", None), "settings", None)),
            "batches": self._batches,
            "pools": {name: part._pool.rows() for name, part in self._mixtures().items() if part._pool},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this configuration, before Lightning copies its tensors."""
        check_fits(checkpoint, self.state_dict(), self.settings)
        self._batches = int(checkpoint["gmvq"]["batches"])
        self._pools = dict(checkpoint["gmvq"].get("pools", {}))


def _build_quantizer(
    dim: int,
    codebook_size: int,
    num_quantizers: int,
    groups: int,
    shared_codebook: bool,
    level_dropout: bool,
    **options: Any,
) -> Quantizer:
    """One mixture, a residual quantizer or a grouped one.

    Raises:
        ValueError: levels and groups at once, or an option of a composition without one.
    """
    if num_quantizers > 1 and groups > 1:
        raise ValueError(f"give num_quantizers or groups, not both; got {num_quantizers} and {groups}")
    if level_dropout and num_quantizers == 1:
        raise ValueError("level_dropout needs levels: num_quantizers=2 or more")
    if shared_codebook and num_quantizers == groups == 1:
        raise ValueError(
            "shared_codebook needs several levels or groups: num_quantizers or groups of 2 or more"
        )
    if num_quantizers != 1:
        shared = {"shared_codebook": shared_codebook, "level_dropout": level_dropout}
        return ResidualGMVQ(dim, codebook_size, num_quantizers, **shared, **options)
    if groups != 1:
        return GroupedGMVQ(dim, codebook_size, groups, shared_codebook=shared_codebook, **options)
    return GaussianMixtureVQ(dim, codebook_size, **options)


def _arguments() -> set[str]:
    return set(inspect.signature(TokenizerModule.__init__).parameters) - {"self", "autoencoder"}


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused Adam takes these parameters."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def _match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Lay loaded averages out like their parameters: fused Adam on a CPU reads memory in order, whatever the strides.

    (Gradients are laid out so by autograd.)
    """
    for parameter, averages in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if name in averages and averages[name].stride() != parameter.stride():
                averages[name] = torch.empty_like(parameter).copy_(averages[name])


def _in_fastest_format(batch: Tensor) -> Tensor:
    """Images (B, C, H, W) in the memory format of the convolutions' weights; anything else contiguous."""
    return batch.contiguous(memory_format=torch.channels_last if batch.ndim == 4 else torch.contiguous_format)


def _channels_last(net: nn.Module) -> None:
    """Give the weights of 2-d convolutions the memory format in which they are fastest."""
    if all(parameter.ndim in (1, 2, 4) for parameter in net.parameters()):
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

"""``TokenizerModule``: how a `VQAutoencoder` is trained, as a LightningModule whose arguments are the config's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ..errors import check_choice, check_positive, check_seed
from ..evaluation.metrics import CodebookMetrics, psnr
from ..functional.estimators import Estimator
from ..models.autoencoder import AutoencoderOutput, VQAutoencoder
from ..models.interface import code_sizes
from ..objectives import negative_evidence
from ..quantizers import GaussianMixtureVQ
from ..quantizers.parts import Objective, Precision, Variance
from ..quantizers.start import Pool
from .checkpoint import check_fits, describe_model, entry_of
from .choices import as_plain
from .loggers import is_logged
from .optimizer import (
    build_optimizer,
    channels_last,
    in_fastest_format,
    scheduled,
    seed_step,
    total_steps,
)
from .parts import LIKELIHOODS, build_model
from .sharding import Divisible
from .stage import Adversarial, build_stage

_NO_SETTINGS = ("self", "autoencoder", "__class__")
_QUANTIZER = {name: p.default for name, p in inspect.signature(GaussianMixtureVQ).parameters.items()}


class TokenizerModule(Divisible):
    """Train a tokenizer on its exact objective: nats per image, divided by the n values of an image.

    The noise of a step is a function of (seed, rank, number of the batch) and every schedule one of the global
    step, so a resumed run equals an uninterrupted one.

    Args:
        network: size of the encoder and decoder: tiny (for a CPU), small or base; or the ``config.json`` of a diffusers
            ``AutoencoderKL`` or ``VQModel``, as a mapping.
        channels: channels of the images: 3 (RGB) or 1 (grey); of signals: as many as they have.
        downsample: pixels per latent position along each axis: 4, 8 or 16.
        dim: features per latent position.
        codebook_size: number of codes, of each level or group; of levels or scales also a list, as in [256, 64, 16].
        codebook_dim: dimensions that the codebook lives in, between two learned maps; none: dim.
        num_quantizers: levels of a residual quantizer, or of each group; 1: a single code.
        groups: groups of features with a code, or levels, each; 1: a single group.
        scales: scales of a pyramid, of which the finest has a code for each position; 1: a single code per position.
        ragged: a code for each position or for a block of them, of as many sizes as there are scales, in place of a
            pyramid: fewer codes where there is less to say.
        shared_codebook: one codebook for all levels, groups or scales.
        level_dropout: train on random prefixes of the levels, so that any prefix can be decoded.
        min_levels: the least number of levels that level_dropout leaves.
        beam: paths over the levels that encode keeps; 1: each level takes its most probable code.
        objective: which bound is trained on, and the weights gamma and beta of its terms.
        precision: the precision of the mixture's components, and its sharpening over training.
        variance: the variance of a code given the image, and its noise over training.
        estimator: gradient estimator for the choice of a code, such as "GumbelSoftmax(temperature=0.5)".
        mixture_weights: uniform, or learned.
        standardize: keep the mixture in units of the latents that start it; the decoder reads latents as they are.
        likelihood: of a pixel: gaussian (squared error), laplace (absolute error) or logit_laplace (that of logits).
        likelihood_scale: standard deviation of a pixel (0 to 1): "ml" (best for the batch), "learned" or a number.
        perceptual: weight of a distance of features beside the likelihood, such as 1; 0: none (images alone).
        adversarial: a discriminator of the reconstructions, and its weight (images alone).
        lr: highest learning rate of the networks.
        betas: decay rates of Adam's two averages.
        weight_decay: decoupled weight decay of the networks' weights.
        warmup_steps: steps over which the learning rate rises.
        final_lr: learning rate at the end as a share of the highest.
        decoder_after: steps before the decoder learns; codes learn from the first on.
        seed: of the first weights and of the noise.
        spatial_dims: 2 for images, 1 for signals: recordings and time series.
        compiled: compile forward and backward pass of a step as one graph, once the codebook has started.
        autoencoder: a model of your own, which then replaces everything about networks and quantizer above.

    Raises:
        ValueError: an argument is out of range.

    Example:
        Two steps; some thousands make a tokenizer.

        >>> from lightning.pytorch import Trainer
        >>> from gmvq.training import ImageDataModule
        >>> module = TokenizerModule("tiny", codebook_size=256)
        >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = Trainer(max_steps=2, use_distributed_sampler=False, **quiet)
        >>> trainer.fit(module, ImageDataModule("photos"))
        >>> module.model.save_pretrained("model")
    """

    def __init__(
        self,
        network: Literal["tiny", "small", "base"] | dict[str, Any] = "tiny",
        channels: int = 3,
        downsample: int = 4,
        dim: int = 4,
        codebook_size: int | list[int] = 256,
        codebook_dim: int | None = None,
        num_quantizers: int = 1,
        groups: int = 1,
        scales: int = 1,
        ragged: bool = False,
        shared_codebook: bool = False,
        level_dropout: bool = False,
        min_levels: int = 1,
        beam: int = 1,
        objective: Objective = _QUANTIZER["objective"],
        precision: Precision = _QUANTIZER["precision"],
        variance: Variance = _QUANTIZER["variance"],
        estimator: Estimator = _QUANTIZER["estimator"],
        mixture_weights: Literal["uniform", "learned"] = _QUANTIZER["mixture_weights"],
        standardize: bool = _QUANTIZER["standardize"],
        likelihood: Literal["gaussian", "laplace", "logit_laplace"] = "gaussian",
        likelihood_scale: Literal["ml", "learned"] | float = "ml",
        perceptual: float = 0.0,
        adversarial: Adversarial = Adversarial(),
        lr: float = 4e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        warmup_steps: int = 50,
        final_lr: float = 0.02,
        decoder_after: int = 0,
        seed: int = 0,
        spatial_dims: Literal[1, 2, 3] = 2,
        compiled: bool = False,
        autoencoder: VQAutoencoder | None = None,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
        self.settings = {name: as_plain(value) for name, value in given.items()}
        check_positive("lr", lr)
        check_seed(seed)
        check_choice("likelihood", likelihood, tuple(LIKELIHOODS))
        if min(warmup_steps, weight_decay, decoder_after) < 0 or not 0 <= final_lr <= 1:
            raise ValueError(
                "expected warmup_steps, weight_decay and decoder_after >= 0 and 0 <= final_lr <= 1, got "
                f"{warmup_steps}, {weight_decay}, {decoder_after} and {final_lr}"
            )
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.warmup_steps, self.final_lr, self.seed = warmup_steps, final_lr, seed
        self.decoder_after, self.compiled = decoder_after, compiled
        self.model = autoencoder or build_model(**given)
        for net in (self.model.encoder, self.model.decoder):
            channels_last(net)
        self.likelihood = LIKELIHOODS[likelihood](likelihood_scale)
        self.stage = build_stage(perceptual, adversarial, channels, spatial_dims, seed)
        if compiled and self.stage:
            raise ValueError(
                "the bound alone is compiled; leave perceptual and adversarial.weight at 0, or compiled=False"
            )
        self._compiled: Any = None
        self._batches = 0  # batches this process has trained on since training began
        self._pools: dict[str, Any] = {}  # of a checkpoint: the latents that each mixture starts from

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
        groups += self.stage.parameter_groups() if self.stage else []
        clips = self._trainer is not None and bool(self._trainer.gradient_clip_val)
        optimizer = build_optimizer(groups, lr=self.lr, betas=self.betas, clips=clips)
        return scheduled(optimizer, self.total_steps, warmup=self.warmup_steps, final=self.final_lr)

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training (see ``total_steps`` of ``schedule``)."""
        return total_steps(self.trainer)

    def _mixtures(self) -> dict[str, GaussianMixtureVQ]:
        found = self.model.named_modules()
        return {name: part for name, part in found if isinstance(part, GaussianMixtureVQ)}

    def on_fit_start(self) -> None:
        """Give a resumed run back the latents that its codebook will start from."""
        parts = self._mixtures()
        for name, state in self._pools.items():
            pool = parts[name]._pool = Pool(parts[name].codebook_size)
            pool.restore(state, self.device)
        self._pools = {}

    def needs_whole(self) -> str | None:
        if self.stage and self.stage.critic:
            return "a discriminator; use adversarial.weight=0"
        return "a compiled step; use model.compiled=False" if self.compiled else None

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        seed_step(self.seed, self.global_rank, self._batches, self.device)
        self._batches += 1
        advance: Callable[[float], None] | None = getattr(self.model.quantizer, "set_progress", None)
        if advance is not None:
            advance(self._progress())

    def _progress(self) -> float:
        """The share of the training that is done."""
        return min(1.0, self.global_step / self.total_steps)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        images = in_fastest_format(batch)
        loss, terms, reconstruction = self._objective(images)
        with torch.no_grad():
            self.likelihood.observe(reconstruction, images)
            if is_logged(self.trainer, self.global_step + 1):
                mse = (reconstruction - images).square().mean()
                rate = self.trainer.optimizers[0].param_groups[0]["lr"]
                terms = {**terms, "loss": loss.detach(), "mse": mse, "lr": rate}
                self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return loss

    def _objective(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, all terms, and reconstruction; compiled if asked, once there is a codebook: its start is not."""
        if self._compiled is None and self.compiled and all(one._ready for one in self._mixtures().values()):
            self._compiled = torch.compile(self._evaluate, fullgraph=True)
        return (self._compiled or self._evaluate)(images)

    def _evaluate(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        out = self.model(images)
        loss, terms = self.loss(images, out)
        return loss, {**terms, **out.quantizer.terms}, out.reconstruction.float()

    def loss(
        self, images: Tensor, out: AutoencoderOutput, progress: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, per value of an image, and its terms beside the bound.

        ``images`` are (B, C, *spatial), ``out`` is the model's in training mode, and ``progress`` the share of the
        training that is done, 0 to 1; default: the trainer's.
        """
        reconstruction = out.reconstruction.float()
        bound = negative_evidence(self.likelihood, reconstruction, images, out.quantizer) / images[0].numel()
        if self.stage is None:
            return bound, {}
        progress = self._progress() if progress is None else progress
        return self.stage(images, reconstruction, bound, self.model.decoder, progress)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before ``decoder_after`` the decoder gets no gradients, so that not even weight decay moves it."""
        if self.global_step < self.decoder_after:
            for parameter in self.model.decoder.parameters():
                parameter.grad = None
        if self.stage:
            self.stage.forget_gradients(self._progress())

    def on_validation_epoch_start(self) -> None:
        """Sums over the set: codes; errors and number of images."""
        self._codes = CodebookMetrics(code_sizes(self.model.quantizer))
        self._codes.histogram = self._codes.histogram.to(self.device)
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._errors = torch.zeros(2, device=self.device, dtype=wide)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        images = in_fastest_format(batch)
        out = self.model(images)
        error = out.reconstruction.float().clamp(0.0, 1.0) - images
        self._errors[0] += error.square().flatten(1).mean(1).sum()
        self._errors[1] += images.shape[0]
        self._codes.update(out.quantizer.indices)

    def on_validation_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        error, images = torch.as_tensor(strategy.reduce(self._errors, reduce_op="sum")).tolist()
        self._codes.histogram = torch.as_tensor(strategy.reduce(self._codes.histogram, reduce_op="sum")).cpu()
        use = self._codes.compute() if self._codes.positions else {"perplexity": 1.0, "usage": 0.0}
        mse = error / images
        values = {
            "validation/mse": mse,
            "validation/psnr": psnr(mse),
            "validation/perplexity": use["perplexity"],
            "validation/usage": use["usage"],
        }
        self.log_dict(values, rank_zero_only=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        pools = {name: part._pool.state() for name, part in self._mixtures().items() if part._pool}
        more = {"batches": self._batches, "pools": pools}
        checkpoint["gmvq"] = entry_of(self, "model", describe_model(self.model), **more)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this configuration, before Lightning copies its tensors."""
        check_fits(checkpoint, self.state_dict(), self.settings)
        self._batches = int(checkpoint["gmvq"]["batches"])
        self._pools = dict(checkpoint["gmvq"].get("pools", {}))

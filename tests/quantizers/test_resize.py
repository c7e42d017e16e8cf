"""More or fewer codes in a trained layer: what is reported is true, and as good as a start with that many codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, Precision, ResidualGMVQ
from gmvq.functional.kmeans import nearest_code
from gmvq.quantizers import resize_codebook

D = 3


def latents(seed: int = 0, count: int = 1500) -> Tensor:
    """Ten clouds of several widths."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4.0 * torch.randn(10, D, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(10, (count,), generator=generator)
    return 7.0 + centres[chosen] + (0.1 + 0.1 * chosen[:, None]) * torch.randn(count, D, generator=generator)


def started(size: int, **options) -> GaussianMixtureVQ:
    built = GaussianMixtureVQ(D, size, units="latents", **options)
    built.init_codebook(latents())
    return built


@pytest.mark.parametrize(("old", "new"), [(16, 20), (16, 70), (64, 60), (64, 16), (64, 1)])
def test_it_is_as_good_as_a_start_with_that_many_codes(old, new) -> None:
    built = started(old)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    resized = resize_codebook(built, latents(), new)
    assert resized.layer.codebook_size == new == len(resized.layer.codebook)
    assert (resized.after.mse < resized.before.mse) == (new > old)
    if new != 60:  # of about equal numbers the smaller may be the likelier
        assert (resized.after.log_likelihood > resized.before.log_likelihood) == (new > old)
    x = latents(1)
    error = (resized.layer.eval()(x).quantized - x).square().mean()
    fresh = (started(new).eval()(x).quantized - x).square().mean()
    assert error < 1.1 * fresh
    assert (built.eval()(x).indices >= 0).all()
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_figures_are_those_of_the_layers() -> None:
    built, x = started(16), latents()
    resized = resize_codebook(built, x, 24)
    for layer, fit in ((built, resized.before), (resized.layer, resized.after)):
        out = layer.eval()(x)
        mse = (out.quantized - x).square().mean().detach()
        assert fit.mse == pytest.approx(float(mse), rel=1e-4)
        shares = torch.bincount(out.indices, minlength=layer.codebook_size) / len(x)
        assert fit.perplexity == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-4)
        z = layer.standardized(x).double()
        spread = math.sqrt(fit.mse) / float(layer.scale)
        components = torch.distributions.Normal(layer.codebook.double(), spread)
        log_p = components.log_prob(z[:, None]).sum(-1).logsumexp(-1) - math.log(layer.codebook_size)
        assert fit.log_likelihood == pytest.approx(float(log_p.mean().detach()), rel=1e-3)


def test_dead_codes_go_first_and_cost_nothing() -> None:
    built, x = started(16), latents()
    with torch.no_grad():
        built.codebook[3:9] += 1e3
    resized = resize_codebook(built, x, 10)
    assert resized.after.mse <= resized.before.mse * 1.0001


def test_what_else_the_layer_knows_comes_along() -> None:
    options = {
        "mixture_weights": "learned",
        "precision": Precision(per_feature=True),
    }
    built = started(16, codebook_dim=2, **options)
    built.set_progress(0.5)
    new = resize_codebook(built, latents(), 32).layer
    assert torch.equal(new.project_in, built.project_in)  # pyright: ignore[reportArgumentType]
    assert torch.equal(new.mean, built.mean)
    assert torch.equal(new.scale, built.scale)
    cells, _ = nearest_code(new.standardized(latents()).detach(), new.codebook.detach())
    shares = torch.bincount(cells, minlength=32) + 1
    torch.testing.assert_close(new.log_weights(), (shares / shares.sum()).log())
    out = new(latents(2).requires_grad_())
    (out.quantized.square().mean() + out.loss).backward()
    assert new.training


def test_training_goes_on_with_more_codes_and_with_fewer() -> None:
    torch.manual_seed(0)
    model: Any = nn.ModuleDict({"encoder": nn.Linear(D, D), "quantizer": started(16, codebook_dim=2)})
    nn.init.eye_(model["encoder"].weight)
    optimizer = torch.optim.Adam([{"params": part.parameters(), "lr": 1e-3} for part in model.values()])

    def train(steps: int) -> float:
        error = torch.tensor(torch.nan)
        for seed in range(steps):
            x = latents(seed, 256)
            out = model["quantizer"](model["encoder"](x))
            error = (out.quantized - x).square().mean()
            optimizer.zero_grad()
            (error + out.loss).backward()
            optimizer.step()
        return float(error.detach())

    errors = [train(10)]
    for size in (64, 8):
        layer = model["quantizer"]
        known = optimizer.state[layer.project_in]["exp_avg"]
        with torch.no_grad():
            z = model["encoder"](latents())
        model["quantizer"] = resize_codebook(layer, z, size, optimizer=optimizer).layer
        layer = model["quantizer"]
        assert optimizer.state[layer.project_in]["exp_avg"] is known
        assert layer.codebook not in optimizer.state
        assert {id(p) for p in optimizer.param_groups[1]["params"]} == {id(p) for p in layer.parameters()}
        before = layer.codebook.detach().clone()
        errors.append(train(10))
        assert optimizer.state[layer.codebook]["exp_avg"].shape == (size, 2)
        assert not torch.equal(layer.codebook, before)
    assert errors[1] < errors[0] < errors[2]


def test_what_cannot_be_resized_says_so() -> None:
    x = latents()
    with pytest.raises(TypeError, match="one GaussianMixtureVQ, got ResidualGMVQ"):
        resize_codebook(ResidualGMVQ(D, 8), x, 16)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no codebook yet"):
        resize_codebook(GaussianMixtureVQ(D, 8), x, 16)
    with pytest.raises(ValueError, match="more latent vectors"):
        resize_codebook(started(8), x, 1500)
    with pytest.raises(ValueError, match="fewer than 16 distinct"):
        resize_codebook(started(8), x[:5].repeat(10, 1), 16)
    built = started(8)
    built.set_codebook(latents(5, 8), frozen=True)
    with pytest.raises(ValueError, match="frozen codes"):
        resize_codebook(built, x, 16)

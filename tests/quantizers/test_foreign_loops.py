"""Training loops of others: one position a batch, backward inside autocast, initialisers, schedules between passes."""

from __future__ import annotations

import pytest
import torch
from quantizer_cases import latents, layer
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, ResidualGMVQ


def started(codebook_size: int, support: int | None = 4) -> GaussianMixtureVQ:
    built = GaussianMixtureVQ(4, codebook_size, support=support)
    built.init_codebook(torch.randn(4 * codebook_size, 4, generator=torch.Generator().manual_seed(0)))
    return built


def points(count: int = 12) -> Tensor:
    return latents(count, 4, dtype=torch.float32)


def step(built: GaussianMixtureVQ, x: Tensor) -> None:
    out = built(x)
    (out.quantized.square().mean() + out.loss).backward()


def test_batches_of_one_position_start_the_codebook() -> None:
    built, encoder = GaussianMixtureVQ(4, 8, start_after=10), nn.Linear(6, 4)
    for _ in range(10):
        step(built, encoder(torch.randn(1, 6)))
    assert not built.started
    step(built, encoder(torch.randn(1, 6)))
    assert built.started


def test_backward_inside_autocast_on_all_codes() -> None:
    """Rows run in blocks, and backward runs them again: under no other precision than forward did."""
    found: list[Tensor] = []
    for inside in (False, True):
        built, x = (
            started(1024, support=None),
            torch.randn(512, 4, generator=torch.Generator().manual_seed(1)),
        )
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = built(x)
            total = out.quantized.square().mean() + out.loss
            if inside:
                total.backward()
        if not inside:
            total.backward()
        assert x.grad is not None
        found.append(x.grad)
    assert found[1].isfinite().all()
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()


def test_an_initialiser_of_all_parameters_is_told() -> None:
    built = GaussianMixtureVQ(4, 8)
    for parameter in built.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    with pytest.warns(UserWarning, match="reset_parameters"):
        built(points().requires_grad_())
    built.reset_parameters()
    assert (built(points().requires_grad_()).indices == -1).all()


def test_a_level_whose_codebook_another_one_filled_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    built = ResidualGMVQ(4, 8, num_quantizers=2, shared_codebook=True, start_after=1)
    for _ in range(3):
        built(points().requires_grad_())
    assert all(level.started for level in built.mixtures)
    assert not recwarn.list


def test_schedules_may_advance_between_forward_and_backward() -> None:
    built, x = layer(gumbel_noise=1.0, sample_noise=1.0), latents().requires_grad_()
    out = built(x)
    built.set_progress(0.5)
    (out.quantized.square().mean() + out.loss).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("before", [True, False], ids=["before the start", "after it"])
def test_a_batch_with_nan_teaches_nothing(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU nothing looks for it; a gradient scaler leaves out the optimizer's step, and we the M-step."""
    monkeypatch.setattr("gmvq.quantizers.base.check_finite", lambda *_: None)
    built, x = GaussianMixtureVQ(4, 8, start_after=2) if before else started(8), points(40)
    broken = x.clone()
    broken[3, 1] = torch.nan
    for _ in range(3):
        built(broken.requires_grad_())
    built.settle()
    if before:
        built(x.requires_grad_())
    for value in built.state_dict().values():
        assert value.isfinite().all()
    assert built.started
    assert len(built.eval()(x).indices.unique()) > 4


@pytest.mark.parametrize(("codebook_size", "support"), [(3, 4), (8, None), (8, 4)])
def test_a_second_derivative_is_refused(codebook_size: int, support: int | None) -> None:
    x = points().requires_grad_()
    out = started(codebook_size, support)(x)
    total = out.quantized.square().mean() + out.loss
    (grad,) = torch.autograd.grad(total, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.square().sum().backward()


def test_compiled_for_any_number_of_rows() -> None:
    built, eager = started(8), started(8)
    compiled = torch.compile(built, dynamic=True, fullgraph=True, backend="eager")
    for count in (32, 17):
        x = points(count)
        torch.testing.assert_close(compiled(x).quantized, eager(x).quantized)
    torch.compiler.reset()

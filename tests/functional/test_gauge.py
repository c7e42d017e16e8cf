"""The projected gradient: batch normalisation's with one scale, and nothing along a shift or a scale of all latents."""

from __future__ import annotations

import torch

from gmvq.functional.gauge import without_shift_and_scale


def gradient(z: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    z = z.clone().requires_grad_()
    values = without_shift_and_scale(z, present)
    assert torch.equal(values, z)
    weights = 1.0 if present is None else present[:, None]
    ((values.sin() + 0.3 * values) * weights).sum().backward()
    assert z.grad is not None
    return z.grad


def test_it_is_the_gradient_through_a_batch_normalisation_with_one_scale() -> None:
    x = torch.randn(20, 3, dtype=torch.float64)
    c = x - x.mean(0)
    z = c / c.square().mean().sqrt()
    x = z.clone().requires_grad_()
    c = x - x.mean(0)
    y = c / c.square().mean().sqrt()
    (y.sin() + 0.3 * y).sum().backward()
    torch.testing.assert_close(gradient(z), x.grad)


def test_no_shift_and_no_scale_is_left() -> None:
    z = 3 * torch.randn(20, 3, dtype=torch.float64) + 2
    g = gradient(z)
    torch.testing.assert_close(g.sum(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close((g * z).sum(), torch.zeros((), dtype=torch.float64))
    assert g.abs().max() > 0.1


def test_masked_rows_count_for_nothing_and_get_nothing() -> None:
    z = torch.randn(20, 3, dtype=torch.float64)
    present = (torch.arange(20) < 12).double()
    z[12:] = 0.0
    masked = gradient(z, present)
    torch.testing.assert_close(masked[:12], gradient(z[:12]))
    assert not masked[12:].any()


def test_equal_rows_get_no_gradient_and_no_nan() -> None:
    assert not gradient(torch.ones(5, 2)).isnan().any()
    torch.testing.assert_close(gradient(torch.ones(5, 2)), torch.zeros(5, 2), atol=1e-6, rtol=0.0)

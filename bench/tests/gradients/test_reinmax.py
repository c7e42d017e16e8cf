"""ReinMax: gradients by enumeration of the hard sample."""

from __future__ import annotations

import pytest
import torch
from reinmax import ReinMax
from torch import Tensor

ONE = torch.tensor(1.0, dtype=torch.float64)


def logits_of(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def expected_gradient(estimator, logits: Tensor, f, temperature=ONE) -> Tensor:
    """Sum over the hard samples D of p(D) times the gradient the estimator gives with that D."""
    total, p = torch.zeros_like(logits), logits.softmax(-1)[0]
    for index in range(logits.shape[-1]):
        chosen = torch.zeros_like(logits)
        chosen[0, index] = 1e6
        variable = logits.clone().requires_grad_()
        sample = estimator.sample(variable, temperature, chosen)
        total += p[index] * torch.autograd.grad(f(sample), variable)[0]
    return total


def exact_gradient(logits: Tensor, f) -> Tensor:
    variable = logits.clone().requires_grad_()
    values = torch.stack([f(row[None]) for row in torch.eye(logits.shape[-1], dtype=logits.dtype)])
    return torch.autograd.grad((variable.softmax(-1)[0] * values).sum(), variable)[0]


def quadratic(size: int):
    generator = torch.Generator().manual_seed(size)
    a = torch.randn(size, size, generator=generator, dtype=torch.float64)
    b = torch.randn(size, generator=generator, dtype=torch.float64)
    return lambda r: ((r @ (a + a.T)) * r).sum() + (r @ b).sum()


CASES = [logits_of(0.4, -0.9), logits_of(0.2, -1.0, 0.7), logits_of(3.0, 0.0, -2.0)]


@pytest.mark.parametrize("logits", CASES)
def test_reinmax_is_unbiased_for_quadratic_functions(logits) -> None:
    f = quadratic(logits.shape[-1])
    exact = exact_gradient(logits, f)
    torch.testing.assert_close(expected_gradient(ReinMax(), logits, f), exact)
    # at another temperature it is no longer exact
    warm = expected_gradient(ReinMax(), logits, f, 2 * ONE)
    assert not torch.allclose(warm, exact, atol=1e-6)


def test_reinmax_is_second_order_only() -> None:
    logits = CASES[1]
    slope = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)

    def steep(r: Tensor) -> Tensor:
        return (r @ slope).pow(3).sum()

    ours = expected_gradient(ReinMax(), logits, steep)
    assert not torch.allclose(ours, exact_gradient(logits, steep), atol=1e-3)


def test_reinmax_gradient_formula() -> None:
    """g = (2 J(p1) - J(p) / 2) f', p1 = (D + softmax(logits / tau)) / 2, J(p) = diag(p) - p p^T."""
    logits, temperature = CASES[1], 1.5 * ONE
    upstream = torch.tensor([[0.3, -1.2, 0.8]], dtype=torch.float64)
    chosen = torch.tensor([[0.0, 1e6, 0.0]], dtype=torch.float64)
    variable = logits.clone().requires_grad_()
    sample = ReinMax().sample(variable, temperature, chosen)
    (grad,) = torch.autograd.grad(sample, variable, upstream)

    def jacobian(p: Tensor) -> Tensor:
        return torch.diag(p) - torch.outer(p, p)

    hard = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    half = 0.5 * (hard + (logits / temperature).softmax(-1)[0])
    expected = 2 * jacobian(half) @ upstream[0] - 0.5 * jacobian(logits.softmax(-1)[0]) @ upstream[0]
    torch.testing.assert_close(grad[0], expected)

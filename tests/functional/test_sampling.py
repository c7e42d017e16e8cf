"""The sampling operation: its two implementations agree in outputs and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from watch import largest_allocation

from gmvq.functional.estimators import GumbelSoftmax, StraightThroughGumbel
from gmvq.functional.noise import noise_keys
from gmvq.functional.sampling import MixtureSample, find_support, mixture_sample
from gmvq.functional.sampling.reference import Inputs, mixture_sample_reference

ESTIMATORS = (GumbelSoftmax(), StraightThroughGumbel(), None)
CPU = torch.device("cpu")


class Case:
    """Inputs of one size, and gradients that arrive at the four differentiable outputs."""

    def __init__(
        self,
        n: int,
        k: int,
        d: int,
        dtype: torch.dtype = torch.float64,
        scale: float = 1.0,
        masked: bool = False,
    ) -> None:
        self.generator = torch.Generator().manual_seed(n * 1000 + k)
        self.inputs = [self._normal(n, d, scale=scale), self._normal(k, d), self._normal(k), self._normal(k)]
        self.inputs = [x.to(dtype).requires_grad_() for x in self.inputs]
        self.upstream = [self._normal(*s).to(dtype) for s in ((n, d), (n,), (n,), (k,))]
        self.present = (self._normal(n) > -0.5).to(dtype) if masked else None
        torch.manual_seed(0)
        self.keys = noise_keys(n, CPU)

    def _normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def sample(
        self,
        estimator: Any,
        support: int | None,
        *,
        reference: bool = False,
        temperature: float = 0.5,
        present: Tensor | None = None,
    ) -> MixtureSample:
        found = find_support(*(x.detach() for x in self.inputs[:3]), support)  # pyright: ignore
        numbers = torch.tensor(temperature), torch.tensor(1.0)
        if reference:
            inputs = Inputs(*self.inputs, present, self.keys, *(x.to(self.inputs[0]) for x in numbers))  # pyright: ignore
            return mixture_sample_reference(inputs, found, estimator)
        return mixture_sample(
            *(*self.inputs, present, self.keys, found),  # pyright: ignore
            estimator=estimator,
            temperature=numbers[0],
            noise=numbers[1],
        )

    def run(
        self, estimator: Any, support: int | None, **options: Any
    ) -> tuple[MixtureSample, tuple[Tensor, ...]]:
        out = self.sample(estimator, support, present=self.present, **options)
        outputs = (out.mean, out.second, out.entropy, out.aggregate)
        loss = sum((o * u).sum() for o, u in zip(outputs, self.upstream, strict=True))
        return out, torch.autograd.grad(loss, self.inputs)  # pyright: ignore


def assert_agree(
    ours: tuple[MixtureSample, tuple[Tensor, ...]],
    expected: tuple[MixtureSample, tuple[Tensor, ...]],
    relative: float,
) -> None:
    """Every output and gradient, to a tolerance relative to its largest entry."""
    for name in ("mean", "second", "entropy", "aggregate"):
        close(name, getattr(ours[0], name), getattr(expected[0], name), relative)
    assert torch.equal(ours[0].indices, expected[0].indices)
    for name, a, b in zip(("query", "codebook", "bias", "extra"), ours[1], expected[1], strict=True):
        close(f"gradient of {name}", a, b, relative)


def close(name: str, ours: Tensor, expected: Tensor, relative: float) -> None:
    size = max(float(expected.detach().abs().max()), 1e-6)
    error = float((ours.detach().double() - expected.detach().double()).abs().max()) / size
    assert error <= relative, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", [(1, 4, 1), (3, 5, 1), (65, 7, 4), (1, 130, 3), (300, 40, 64)])
@pytest.mark.parametrize("masked", [False, True])
def test_truncated_is_the_reference(estimator, size, masked) -> None:
    case = Case(*size, masked=masked)
    assert_agree(case.run(estimator, 4), case.run(estimator, 4, reference=True), 1e-12)
    single = Case(*size, torch.float32, masked=masked)
    assert_agree(single.run(estimator, 4), case.run(estimator, 4, reference=True), 1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("support", [None, 4])
@pytest.mark.parametrize(("scale", "temperature"), [(1e4, 0.5), (1.0, 1e-3), (100.0, 0.05), (0.0, 2.0)])
def test_extreme_logits_and_temperatures(estimator, support, scale, temperature) -> None:
    case = Case(20, 30, 4, torch.float64, scale)
    ours = case.run(estimator, support, temperature=temperature)
    assert_agree(ours, case.run(estimator, support, reference=True, temperature=temperature), 1e-8)
    single = Case(20, 30, 4, torch.float32, scale).run(estimator, support, temperature=temperature)
    for value in (single[0].mean, single[0].second, single[0].entropy, single[0].aggregate, *single[1]):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("k", [1, 3, 12])
def test_truncated_equals_its_definition(estimator, k) -> None:
    """Codes outside the support have logits of minus infinity; support K is the dense form."""
    case = Case(25, 12, 4, masked=True)
    ours = case.run(estimator, k)
    if k == 12:
        assert_agree(ours, case.run(estimator, None), 1e-12)
    inside = torch.zeros(25, 12, dtype=torch.bool).scatter_(
        1, (case.inputs[0] @ case.inputs[1].T + case.inputs[2]).topk(k, -1).indices, True
    )
    logits = (case.inputs[0] @ case.inputs[1].T + case.inputs[2]).masked_fill(~inside, -torch.inf)
    q = logits.softmax(-1)
    torch.testing.assert_close(ours[0].entropy, torch.distributions.Categorical(probs=q).entropy())
    torch.testing.assert_close(ours[0].aggregate, case.present @ q)  # pyright: ignore


def test_truncated_gives_gradients_to_the_codes_of_some_support_alone() -> None:
    case = Case(4, 50, 3)
    _, grads = case.run(GumbelSoftmax(), 2)
    touched = find_support(*(x.detach() for x in case.inputs[:3]), 2).codes.unique()  # pyright: ignore
    moved = grads[1].abs().sum(-1) > 0
    assert set(moved.nonzero().flatten().tolist()) == set(touched.tolist())


@pytest.mark.parametrize("term", ["mean", "second", "entropy", "aggregate"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_gradient_of_one_output_alone(term, estimator) -> None:
    case, grads = Case(9, 14, 3), []
    for reference in (False, True):
        out = case.sample(estimator, 5, reference=reference)
        value = (
            getattr(out, term) * case.upstream[3 if term == "aggregate" else 1 if term != "mean" else 0]
        ).sum()
        grads.append(torch.autograd.grad(value, case.inputs, allow_unused=True))
    for ours, expected in zip(*grads, strict=True):
        zero = torch.zeros_like(ours if ours is not None else torch.zeros(()))
        torch.testing.assert_close(zero if ours is None else ours, zero if expected is None else expected)


def test_nothing_of_size_n_k_is_kept_or_made() -> None:
    case = Case(4000, 2000, 4, torch.float32)
    assert largest_allocation(lambda: case.run(GumbelSoftmax(), 8)) <= 1 << 21 < 4000 * 2000
    dense = Case(400, 200, 4, torch.float32)
    assert largest_allocation(lambda: dense.run(GumbelSoftmax(), None)) >= 400 * 200, "the watch sees it"

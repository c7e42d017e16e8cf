"""The Triton kernels against the definition in float64: outputs, gradients, noise, masks, ties, odd sizes, limits.

On a machine without a GPU they run in Triton's interpreter, which has to be chosen before triton is imported: there
one test runs this file again, in a process of its own, and the cases are collected in that process only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmvq.functional.estimators import GumbelSoftmax, StraightThroughGumbel
from gmvq.functional.noise import noise_keys
from gmvq.functional.sampling import mixture_sample
from gmvq.functional.sampling.reference import Inputs, mixture_sample_reference

pytest.importorskip("triton", reason="triton is not installed: its kernels are not used either")

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if CUDA and not INTERPRETED else "cpu")
if CUDA or INTERPRETED:
    from gmvq.functional.sampling import triton_common, triton_kernels

ESTIMATORS = {"soft": GumbelSoftmax(), "hard": StraightThroughGumbel(), "none": None}
MODES = pytest.mark.parametrize("mode", list(ESTIMATORS))
SIZES = [(1, 1, 1), (7, 5, 3), (33, 70, 16), (65, 130, 20), (3, 200, 1), (130, 1, 7)]
# numpy multiplies -inf by the zero weight of padding before the product is masked
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def case(test: Callable[..., None]) -> Callable[..., None]:
    """A test of the kernels, collected only where they can run."""
    test.__test__ = CUDA or INTERPRETED  # pyright: ignore[reportFunctionMemberAccess]
    return test


def test_every_case_in_the_interpreter() -> None:
    """Without a GPU: this file's cases, in a process that has chosen the interpreter."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"],
        env=env | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


test_every_case_in_the_interpreter.__test__ = not (CUDA or INTERPRETED)  # pyright: ignore


def problem(
    N: int, K: int, D: int, *, scale: float = 1.0, integers: bool = False, seed: int = 0
) -> list[Any]:
    """query, codebook, bias, extra, present, keys, temperature, noise: float32 on the device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        x = scale * torch.randn(shape, generator=generator)
        return x.round() if integers else x

    torch.manual_seed(seed)
    inputs = [draw(N, D), draw(K, D), draw(K), draw(K), (draw(N) < scale).float()]
    numbers = [torch.tensor(0.5), torch.tensor(1.0)]
    return [x.to(DEVICE) for x in [*inputs, noise_keys(N, torch.device("cpu")), *numbers]]


def gradients(inputs: list[Any], mode: str, seed: int = 1) -> list[Tensor]:
    """Random gradients of mean, second, entropy and aggregate; none for a sample that is not drawn."""
    (N, D), K = inputs[0].shape, inputs[1].shape[0]
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(s, generator=generator).to(DEVICE) for s in ((N, D), (N,), (N,), (K,))]
    return [torch.zeros_like(g) for g in grads[:2]] + grads[2:] if mode == "none" else grads


def expected(inputs: list[Any], mode: str, grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the definition, float64."""
    query, codebook, bias, extra, present, keys, temperature, noise = inputs
    leaves = [x.detach().double().requires_grad_() for x in (query, codebook, bias, extra)]
    present = None if present is None else present.double()
    own = Inputs(*leaves, present, keys, temperature.double(), noise.double())
    outputs = mixture_sample_reference(own, ESTIMATORS[mode])
    loss = sum((out * g.double()).sum() for out, g in zip(outputs[:4], grads, strict=True))
    found = torch.autograd.grad(loss, leaves, materialize_grads=True)  # pyright: ignore[reportArgumentType]
    return [x.detach() for x in outputs], list(found)


def actual(inputs: list[Any], mode: str, grads: list[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the kernels."""
    out = triton_kernels.forward(*inputs, mode)
    saved = (out[2], *out[5:])
    found = triton_kernels.backward(tuple(grads), *inputs, saved, mode)  # pyright: ignore[reportArgumentType]
    return list(out[:5]), list(found)


def compare(inputs: list[Any], mode: str, tolerance: float = 1e-5, *, integers: bool = False) -> None:
    """Every output and every gradient, relative to the largest of its kind, and to 1 or the integer inputs."""
    grads, floor = gradients(inputs, mode), 1.0
    if integers:
        grads = [(2 * g).round() for g in grads]
        floor = max(float(x.abs().max()) for x in inputs[:2])
    for got, want in zip(actual(inputs, mode, grads), expected(inputs, mode, grads), strict=True):  # pyright: ignore
        for x, y in zip(got, want, strict=True):
            if x.dtype == torch.int64:
                assert torch.equal(x, y)
            else:
                assert x.dtype == torch.float32
                atol = tolerance * max(floor, float(y.abs().max()))
                torch.testing.assert_close(x.double(), y, rtol=0.0, atol=atol)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch) -> None:
    """Every buffer starts as NaN, or as an index out of range: what a kernel does not write shows."""

    def empty(*shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(
            shape, float("nan") if dtype.is_floating_point else -(1 << 40), dtype=dtype, device=DEVICE
        )

    if CUDA or INTERPRETED:
        monkeypatch.setattr(triton_common, "empty", empty)


@case
@MODES
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_the_definition(size: tuple[int, int, int], mode: str) -> None:
    compare(problem(*size), mode)


@case
@MODES
def test_no_mask_is_a_mask_of_ones(mode: str) -> None:
    inputs = problem(9, 20, 5)
    inputs[4] = None
    compare(inputs, mode)


@case
@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize(("temperature", "noise"), [(2.0, 0.0), (0.1, 0.5), (1e-4, 0.0)])
def test_temperature_and_noise(mode: str, temperature: float, noise: float) -> None:
    """Integers where tau = 1e-4: logits and gradients of r are then exact, and 1 / tau amplifies no rounding."""
    inputs = problem(20, 33, 6, scale=2.0, integers=noise == 0.0)
    inputs[6:] = [torch.tensor(temperature, device=DEVICE), torch.tensor(noise, device=DEVICE)]
    compare(inputs, mode, 5e-5 if temperature == 0.1 else 1e-5, integers=noise == 0.0)


@case
@MODES
@pytest.mark.parametrize("temperature", [1.0, 1e-4])
def test_extreme_logits(mode: str, temperature: float) -> None:
    """Logits of +-1e4 (exact in float32), the same for many codes: gradients are those of the definition."""
    inputs = problem(17, 40, 4, scale=40.0, integers=True)
    inputs[1][20:], inputs[2][20:] = inputs[1][:20], inputs[2][:20] + 1.0
    inputs[6:] = [torch.tensor(temperature, device=DEVICE), torch.tensor(0.0, device=DEVICE)]
    logits = inputs[0] @ inputs[1].T + inputs[2]
    assert float(logits.abs().max()) > 5e3
    compare(inputs, mode, integers=True)


@case
@MODES
def test_strided_inputs(mode: str) -> None:
    inputs = problem(21, 19, 6)
    query, codebook, bias, extra, present, keys = inputs[:6]
    inputs[0] = query.T.contiguous().T
    inputs[1] = torch.stack([codebook, codebook], -1)[..., 0]
    inputs[2:5] = [torch.stack([x, -x], -1)[..., 0] for x in (bias, extra, present)]
    inputs[5] = keys.T.contiguous().T
    assert not any(x.is_contiguous() for x in inputs[:6])
    compare(inputs, mode)


@case
@MODES
def test_gradients_that_are_none_are_zeros(mode: str) -> None:
    inputs = problem(12, 18, 5)
    for kept in range(4):
        if mode == "none" and kept < 2:
            continue
        grads = gradients(inputs, mode)
        zeros = [g if i == kept else torch.zeros_like(g) for i, g in enumerate(grads)]
        nones = [g if i == kept else None for i, g in enumerate(grads)]
        got, want = actual(inputs, mode, nones)[1], expected(inputs, mode, zeros)[1]
        torch.testing.assert_close([x.double() for x in got], want, rtol=1e-5, atol=1e-5)


@case
def test_hard_samples_are_those_of_the_definition() -> None:
    """The same keys draw the same codes, 500 rows of them."""
    inputs = problem(500, 24, 3)
    drawn = triton_kernels.forward(*inputs, "hard")[5]
    mean = mixture_sample_reference(Inputs(*inputs), StraightThroughGumbel())[0]
    torch.testing.assert_close(inputs[1][drawn], mean)
    assert drawn.unique().numel() > 12


@case
@pytest.mark.parametrize("processors", [1, 3, 200])
def test_the_split_of_the_work_does_not_matter(processors: int, monkeypatch) -> None:
    monkeypatch.setattr(triton_common, "processors", lambda device: processors)
    compare(problem(150, 40, 4), "soft")


@case
def test_the_index_is_the_lowest_of_equals() -> None:
    query, codebook, bias, *_ = problem(40, 60, 5, scale=2.0, integers=True)
    codebook, bias = codebook.repeat(4, 1), bias.repeat(4)  # equals lie in one tile and in several
    indices = triton_kernels.forward(query, codebook, bias, bias, *problem(40, 1, 1)[4:], "none")[4]
    logits = query @ codebook.T + bias
    first = (logits == logits.amax(1, keepdim=True)).int().argmax(1)
    assert torch.equal(indices, first)
    assert int(indices.max()) < 60


@case
@pytest.mark.parametrize(
    ("dtype", "setting", "tolerance"),
    [
        (torch.float32, "high", 5e-3),
        (torch.float32, "medium", 4e-2),
        (torch.bfloat16, "highest", 4e-2),
        (torch.float16, "highest", 5e-3),
    ],
)
def test_number_types(dtype: torch.dtype, setting: str, tolerance: float) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        inputs = problem(30, 40, 8, scale=0.5)
        grid = (
            torch.bfloat16 if setting == "medium" else dtype
        )  # inputs that the type holds: only products round
        inputs[:2] = [x.to(grid).to(dtype) for x in inputs[:2]]
        compare(inputs, "soft", tolerance)
    finally:
        torch.set_float32_matmul_precision(before)


@case
@MODES
def test_through_autograd(mode: str) -> None:
    """The differentiable operation with ``backend="triton"`` equals the one with ``"reference"``."""
    inputs = problem(30, 50, 6)
    found = []
    for backend in ("triton", "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs[:4]]
        out = mixture_sample(
            *leaves, *inputs[4:6], estimator=ESTIMATORS[mode], temperature=inputs[6], noise=inputs[7], backend=backend  # pyright: ignore
        )  # fmt: skip
        loss = (out.mean.square().sum(-1) + out.second * out.entropy).sum() + out.aggregate.square().sum()
        found.append([out.mean, out.second, out.entropy, out.aggregate, *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(*found, rtol=2e-5, atol=2e-4)

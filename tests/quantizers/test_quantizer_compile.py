"""``torch.compile`` without graph breaks or rebuilds, and ``torch.export`` of the tokenizer's path."""

from __future__ import annotations

import shutil

import pytest
import torch
from quantizer_cases import assert_same, latents, layer, run
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, GroupedGMVQ, GumbelSoftmax, ResidualGMVQ
from gmvq.functional.schedules import Constant, Linear

INDUCTOR = any(map(shutil.which, ("c++", "g++", "clang++")))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting:
    """A backend that runs the graph as it is and counts how often it is asked to."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]):
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(not INDUCTOR, reason="no C++ compiler for inductor"),
        ),
    ],
)
def test_compiled_training_equals_eager(backend) -> None:
    choice = {"dtype": torch.float32, "mixture_weights": "learned"}
    x, eager = latents(dtype=torch.float32), layer(**choice)
    compiled = layer(**choice)
    compiled.compile(fullgraph=True, backend=backend)
    for nats in (True, False):
        expected, expected_grads = run(eager, x, nats=nats)
        out, grads = run(compiled, x, nats=nats)
        torch.testing.assert_close(out.quantized, expected.quantized)
        torch.testing.assert_close(out.nats, expected.nats)
        assert torch.equal(out.indices, expected.indices)
        assert_same(out.terms, expected.terms)
        assert_same(grads, expected_grads, rtol=1e-4, atol=1e-5)


def test_progress_and_steps_rebuild_nothing_and_break_no_graph() -> None:
    """Noise, masks and every schedule moving: two graphs for training, the first without a lesson; one for eval."""
    estimator = GumbelSoftmax(Linear(1.0, 0.1), Linear(1.0, 0.0))
    built, count = GaussianMixtureVQ(3, 5, estimator=estimator), Counting()
    x, mask = latents(dtype=torch.float32), torch.arange(12) % 3 > 0
    built.init_codebook(x)
    built.compile(fullgraph=True, backend=count)
    for step in range(4):
        built.set_progress(step / 3)
        out = built(x, mask)
        (out.quantized.square().mean() + out.loss).backward()
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, built.parameters()):
                parameter.sub_(1e-3 * parameter.grad)  # pyright: ignore[reportOperatorIssue]
        assert out.terms["temperature"] == built.temperature
    assert count.graphs == 2
    built.eval()
    with torch.no_grad():
        evaluated = built(x)
        built.set_progress(0.1)
        again = built(x)
    assert count.graphs == 3
    torch.testing.assert_close(evaluated.quantized, again.quantized, rtol=0.0, atol=0.0)
    torch.testing.assert_close(built.get_codes_from_indices(again.indices), again.quantized)


def test_compiling_before_the_start_says_what_to_do() -> None:
    built = torch.compile(layer(started=False), fullgraph=True, backend="eager")
    with pytest.raises(
        RuntimeError, match=r"init_codebook\(latents\) or train some batches before torch\.compile"
    ):
        built(latents())
    fresh = layer(started=False).eval()
    for attempt in (
        lambda: torch.compile(fresh, fullgraph=True, backend="eager")(latents()),
        lambda: torch.export.export(fresh, (latents(),)),
    ):
        with pytest.raises(RuntimeError, match="cannot be compiled"):
            attempt()


@pytest.mark.parametrize("kind", [GaussianMixtureVQ, ResidualGMVQ, GroupedGMVQ])
def test_where_graphs_may_break_the_start_is_that_of_eager_code(kind) -> None:
    """Levels wait for the first one; in eval nothing is there yet."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        built = kind(4, 5, start_after=2)
        call = torch.compile(built, backend="eager") if compiled else built
        evaluated = call.eval()(latents(40, 4, dtype=torch.float32)).indices
        assert (evaluated == -1).all()
        call.train()
        for seed in range(5):
            call(latents(40, 4, seed=seed, dtype=torch.float32).requires_grad_())
        found.append({**built.state_dict(), "tokens": built.encode(latents(40, 4, dtype=torch.float32))})
    assert_same(found[1], found[0], rtol=0.0, atol=0.0)


class Tokens(nn.Module):
    """The exported path: latents to indices."""

    def __init__(self, quantizer: GaussianMixtureVQ) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer.encode(x)


@pytest.mark.parametrize("weights", ["uniform", "learned"])
def test_exported_tokens_and_codes_are_the_same(weights) -> None:
    torch.manual_seed(0)
    built = GaussianMixtureVQ(
        3, 5, mixture_weights=weights, estimator=GumbelSoftmax(Constant(0.5), Constant(1.0))
    )
    x = latents(8, dtype=torch.float32).view(2, 4, 3)
    built.init_codebook(x)
    built.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Tokens(built), (x,), dynamic_shapes=({0: batch},))
    more = latents(20, seed=4, dtype=torch.float32).view(5, 4, 3)
    assert torch.equal(program.module()(more), built.encode(more))
    whole = torch.export.export(built, (x,)).module()(x)
    torch.testing.assert_close(whole.quantized, built(x).quantized, rtol=0.0, atol=0.0)
    assert torch.equal(whole.indices, built.encode(x))

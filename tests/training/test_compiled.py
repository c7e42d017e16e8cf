"""A step compiled as one graph trains as one that is not, once there is a codebook."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmvq.training import TokenizerModule
from gmvq.training.stage import Adversarial

Fit = Callable[..., TokenizerModule]


class Counting:
    """A backend that runs the graph as it is, and counts the graphs and the steps that ran in one."""

    def __init__(self) -> None:
        self.graphs = self.steps = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*values: Any) -> Any:
            self.steps += 1
            return graph.forward(*values)

        return run


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    count = Counting()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    yield count
    torch.compiler.reset()


def test_compiled_steps_are_the_others(fit: Fit, count: Counting, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **{"likelihood": "laplace", "likelihood_scale": "learned"},
        **{"num_quantizers": 2, "shared_codebook": True, "level_dropout": True},
    }
    eager = fit(tmp_path / "eager", settings=settings)
    assert count.graphs == 0
    compiled = fit(tmp_path / "compiled", settings={**settings, "compiled": True})
    # Steps 1 to 6 start the codebook.
    assert count.steps == 6
    assert count.graphs <= 2
    assert not torch._dynamo.utils.counters["graph_break"]
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_the_bound_alone_is_compiled() -> None:
    with pytest.raises(ValueError, match="the bound alone is compiled"):
        TokenizerModule(compiled=True, adversarial=Adversarial(0.5))

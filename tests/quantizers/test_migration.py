"""A file that gmvq 0.1 wrote gives the same tokens and the same reconstructions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, Objective
from gmvq.functional.schedules import Constant
from gmvq.quantizers import from_config

FILES = Path(__file__).parents[1] / "data"


def old(name: str) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """A new layer of the old config, the old weights, and inputs and outputs."""
    tensors = load_file(FILES / "gmvq_0_1.safetensors")
    mine = {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
    state = {key.removeprefix("state."): value for key, value in mine.items() if key.startswith("state.")}
    return from_config(json.loads((FILES / "gmvq_0_1.json").read_text())[name]), state, mine


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", ["mixture", "residual"])
def test_outputs_are_the_same(name, assign) -> None:
    built, state, expected = old(name)
    before = dict(state)
    model = nn.Sequential(built)  # under a prefix, as in a model
    model.load_state_dict({f"0.{key}": value for key, value in state.items()}, assign=assign)
    assert state == before, "what the caller passed is the caller's"
    out = built.eval()(expected["latents"])
    assert torch.equal(out.indices, expected["indices"])
    torch.testing.assert_close(out.quantized, expected["quantized"])
    built.train()(expected["latents"])
    built.eval()
    assert (built.encode(expected["latents"]) == expected["indices"]).double().mean() > 0.8, "started again"


def test_what_had_not_started_has_not() -> None:
    built, state, _ = old("new")
    built.load_state_dict(state)
    assert not built.started
    built(torch.randn(64, 4))
    assert built.started


def test_options_that_are_gone_are_said_and_change_no_code() -> None:
    built = GaussianMixtureVQ(4, 8)
    built.init_codebook(torch.randn(50, 4))
    now, state, x = built.to_config(), built.state_dict(), torch.randn(20, 4)
    parts = {
        "Precision(fit='learned')": {"precision": {**now["precision"], "fit": "learned"}},
        "Variance(kind='learned')": {"variance": {**now["variance"], "kind": "learned"}},
        "ReinMax": {"estimator": {**now["estimator"], "type": "ReinMax"}},
    }
    for name, part in parts.items():
        with pytest.warns(UserWarning, match=re.escape(name)):
            loaded = from_config({**now, **part})
        loaded.load_state_dict({**state, "log_variances": torch.zeros(8)})
        assert torch.equal(loaded.encode(x), built.encode(x))
    old = from_config({**now, "objective": {**now["objective"], "kind": "none"}})
    assert old.objective == Objective(beta=Constant(0.0))  # pyright: ignore[reportAttributeAccessIssue]
    assert now["precision"]["fit"] == "ml", "a model's digest is of its configuration"


@pytest.mark.parametrize("name", ["mixture", "residual", "new"])
def test_the_config_is_written_as_one_of_now(name) -> None:
    config = old(name)[0].to_config()
    assert config["units"] == "latents"
    assert "init" not in config
    assert from_config(config).to_config() == config  # pyright: ignore[reportAttributeAccessIssue]

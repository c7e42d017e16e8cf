"""A file that gmvq 0.1 wrote gives the same tokens and the same reconstructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

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


@pytest.mark.parametrize("name", ["mixture", "residual", "new"])
def test_the_config_is_written_as_one_of_now(name) -> None:
    config = old(name)[0].to_config()
    assert config["units"] == "latents"
    assert "init" not in config
    assert from_config(config).to_config() == config  # pyright: ignore[reportAttributeAccessIssue]

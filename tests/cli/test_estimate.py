"""``gmvq estimate``: its figures are those of the model, and its options those of ``gmvq fit``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")

from gmvq.training import TokenizerModule
from gmvq.training.cost import Cost, measure_cost

Run = Callable[..., Any]


def cost_of(**options: Any) -> Cost:
    return measure_cost(TokenizerModule("tiny", **options), (4, 3, 16, 16), torch.device("cpu"), seconds=0.0)


def test_figures_follow_the_model() -> None:
    small, large = cost_of(codebook_size=64), cost_of(codebook_size=500)
    module = TokenizerModule("tiny", codebook_size=64)
    assert sum(small.parameters.values()) == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert large.parameters["quantizer"] - small.parameters["quantizer"] == (500 - 64) * 4
    assert small.tokens_per_image == 16
    # The search looks at every code: two operations for each position, code and feature.
    assert large.encode_flops - small.encode_flops == 2 * 16 * (500 - 64) * 4
    assert small.step_flops > 2 * 4 * (small.encode_flops + small.decode_flops)
    assert small.state_bytes == 16 * sum(small.parameters.values())
    assert small.activation_bytes > 0
    assert min(small.encode_tokens_per_second, small.decode_tokens_per_second, small.step_seconds) > 0


def test_activations_grow_with_the_batch() -> None:
    module = TokenizerModule("tiny", codebook_size=64)
    few, some, many = (
        measure_cost(module, (count, 3, 16, 16), torch.device("cpu"), seconds=0.0) for count in (4, 8, 16)
    )
    growth = some.activation_bytes - few.activation_bytes
    assert growth > 0
    assert many.activation_bytes - some.activation_bytes == pytest.approx(2 * growth, rel=0.1)
    assert many.encode_flops == few.encode_flops


def test_every_code_costs_where_the_posterior_is_on_all_of_them() -> None:
    kinds = {"support": 4, "all": None}
    model = {name: TokenizerModule("tiny", codebook_size=256) for name in kinds}
    for name, support in kinds.items():
        model[name].model.quantizer.support = support
    shape, cpu = (4, 3, 16, 16), torch.device("cpu")
    found = {name: measure_cost(module, shape, cpu, seconds=0.0) for name, module in model.items()}
    rows, products = 4 * 16, 2 + 5 - 1
    assert found["all"].step_flops - found["support"].step_flops == products * 2 * rows * 256 * 4


def test_levels_and_groups_count_their_tokens() -> None:
    assert cost_of(num_quantizers=3).tokens_per_image == 48
    assert cost_of(groups=2).tokens_per_image == 32


def test_command(gmvq: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmvq.training.cost.measure_cost.__kwdefaults__", {"seconds": 0.0})
    config = tmp_path / "config.yaml"
    config.write_text("model: {codebook_size: 64}\ndata: {size: 16, batch_size: 4}\n", encoding="utf-8")
    result = gmvq("estimate", config, "--json", "--model.dim", "8")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["batch_shape"] == [4, 3, 16, 16]
    assert found["parameters"]["quantizer"] == 64 * 8
    text = gmvq("estimate", config).out
    labels = ("parameters", "encoding an image", "training memory", "encoding speed", "training time")
    assert all(any(line.startswith(label) for line in text.splitlines()) for label in labels)


def test_misuse_is_one_line(gmvq: Run, tmp_path: Path) -> None:
    result = gmvq("estimate", tmp_path / "absent.yaml")
    assert result.code == 2
    assert "does not exist" in result.err
    config = tmp_path / "config.yaml"
    config.write_text("model: {codebook_size: 64}\n", encoding="utf-8")
    result = gmvq("estimate", config, "--model.codebok_size", "3")
    assert result.code == 2
    assert "did you mean model.codebook_size?" in result.err

"""Every contestant builds, runs and gives gradients at a tiny size, or says why it cannot."""

from __future__ import annotations

import math
import sys
import types
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gmvq.errors import MissingExtraError
from gmvq.functional import cells
from gmvq_bench.rivals.sq_vae import GaussianSQ
from gmvq_bench.speed.contestants import (
    ALL_PRODUCTS,
    CONTESTANTS,
    FLASH,
    LAYER_MODES,
    MODES,
    Case,
)
from gmvq_bench.speed.grid import GRIDS, grid, layers, searches
from gmvq_bench.speed.layer import products_of, step_of


def build(name: str, case: Case):
    contestant = CONTESTANTS[name]
    if contestant.module is not None:
        pytest.importorskip(contestant.module, reason="the extra bench is not installed")
    return contestant.build(case)


@pytest.mark.parametrize("mode", LAYER_MODES)
@pytest.mark.parametrize("name", layers())
def test_layers_run_and_give_gradients(name: str, mode: str) -> None:
    case = Case(mode, 48, 64, 12)
    built, latents = build(name, case), case.latents()
    step = step_of(built, case, latents)
    kept = step()
    quantized = next(iter(kept[0]))
    assert quantized.shape[-2:] == latents.shape
    assert torch.isfinite(quantized).all()
    if mode == "train":
        gradient, *others = kept[1:]
        assert gradient.shape == latents.shape
        assert torch.isfinite(gradient).all()
        assert bool(gradient.any())
        learned = [p for p in built.parameters() if p.requires_grad]
        assert len(others) == len(learned)
        assert all(g is None or torch.isfinite(g).all() for g in others)
        if CONTESTANTS[name].ours or name in ("SQ-VAE", "SimVQ", "VectorQuantize learnable"):
            assert all(g is not None for g in others)
    assert quantized.requires_grad == (mode != "eval")


@pytest.mark.parametrize("name", [name for name in searches() if CONTESTANTS[name].device is None])
def test_searches_agree(name: str) -> None:
    case = Case("search", 200, 96, 8)
    (found,) = step_of(build(name, case), case, case.latents())()
    expected = torch.cdist(case.latents().double(), case.codes().double()).argmin(-1)
    assert found.dtype == torch.int64
    torch.testing.assert_close(found, expected)


def test_flash_kmeans_is_measured_on_a_gpu_if_it_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel is replaced by the definition; without the package the row says what to install."""
    flash, case = CONTESTANTS[FLASH], Case("search", 50, 20, 4)
    assert FLASH in {name for entry in grid("default", torch.device("cuda")) for name in entry.names}
    assert flash.obstacle(case, 1e12) == "runs on cuda alone"
    monkeypatch.setitem(sys.modules, "flash_kmeans", None)
    assert "pip install flash-kmeans" in flash.obstacle(replace(case, device=torch.device("cuda")), 1e12)

    def assign(x: Tensor, centroids: Tensor, x_sq: Tensor, *, c_sq: Tensor) -> Tensor:
        return (x_sq[:, :, None] + c_sq[:, None] - 2.0 * x @ centroids.mT).argmin(-1).int()

    module = types.ModuleType("flash_kmeans.assign_euclid_triton")
    monkeypatch.setattr(module, "euclid_assign_triton", assign, raising=False)
    monkeypatch.setitem(sys.modules, "flash_kmeans", types.ModuleType("flash_kmeans"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (found,) = step_of(flash.build(case), case, case.latents())()
    (expected,) = step_of(CONTESTANTS["gm-vq search"].build(case), case, case.latents())()
    assert torch.equal(found, expected)


def test_cells_are_beside_all_products_on_clustered_latents_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one takes cells and the other never does; both give the same codes."""
    taken: list[int] = []
    search = cells.search

    def noted(referee: Any, k: int) -> Any:
        found = search(referee, k)
        taken.append(0 if found is None else len(referee.query))
        return found

    monkeypatch.setattr(cells, "search", noted)
    entry = next(one for one in grid("cells", torch.device("cpu")) if one.case.data == "clusters")
    case = replace(entry.case, n=8200, k=20000)
    assert case.name.endswith("fp32 clusters")
    found = {name: step_of(build(name, case), case, case.latents())()[0] for name in entry.names}
    assert sum(taken) == case.n  # of gm-vq search alone
    torch.testing.assert_close(found["gm-vq search"], found[ALL_PRODUCTS])
    # Latents and codes are in the same clusters.
    away = case.latents() - case.codes()[found[ALL_PRODUCTS]]
    assert float(away.square().mean()) < 2 * 0.1**2


def test_bfloat16_latents_run_in_autocast() -> None:
    for name in ("gm-vq", "gm-vq support=8", "VectorQuantize", "SimVQ"):
        case = Case("train", 32, 64, 12, "bf16")
        kept = step_of(build(name, case), case, case.latents())()
        assert kept[1].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["FSQ", "LFQ"])
def test_sizes_that_are_no_power_of_two_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="power of two"):
        CONTESTANTS[name].build(Case("train", 8, 1000, 4))


def test_obstacles_name_mode_package_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = CONTESTANTS["VectorQuantize"]
    assert "search" in peer.obstacle(Case("search", 8, 8, 8), 1e12)
    dense = CONTESTANTS["SQ-VAE"]
    assert "GB" in dense.obstacle(Case("train", 4096, 262144, 16), 6e9)
    assert not CONTESTANTS["gm-vq"].obstacle(Case("train", 4096, 262144, 16), 6e9)

    def absent(module: str) -> None:
        raise MissingExtraError(f"'{module}' is not installed: ./bench")

    monkeypatch.setattr("gmvq_bench.speed.contestants.peer", absent)
    assert "vector_quantize_pytorch" in peer.obstacle(Case("train", 8, 8, 8), 1e12)


def test_products_follow_the_support() -> None:
    case = Case("train", 8, 64, 4)
    assert products_of(CONTESTANTS["gm-vq support=8"].build(case), case) == 1
    assert products_of(CONTESTANTS["gm-vq all codes"].build(case), case) == 3
    assert products_of(CONTESTANTS["gm-vq all codes"].build(case), Case("eval", 8, 64, 4)) == 1


def test_our_layer_holds_the_codes_of_the_case() -> None:
    case = Case("eval", 8, 64, 4)
    layer = CONTESTANTS["gm-vq"].build(case).eval()
    torch.testing.assert_close(
        layer.get_codes_from_indices(torch.arange(64)), layer.decoder_units(case.codes())
    )
    w = float(layer.log_precision.detach().exp())
    assert 0.1 < w < 1e3


def test_sq_vae_is_its_formula() -> None:
    """Loss and eval against sums over codes; the sample at a small temperature is a codeword."""
    torch.manual_seed(0)
    layer = GaussianSQ(3, 5, temperature=1e-3).double()
    z = torch.randn(400, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.log_variance.fill_(0.3)
    distance = torch.cdist(z.float(), layer.codebook.float()).double().square()
    logits = -distance / (2 * math.exp(0.3))
    layer.train()
    quantized, indices, loss = layer.float()(z.float())
    nearest = torch.cdist(quantized, layer.codebook).amin(-1)
    assert float((nearest < 1e-2).double().mean()) > 0.95
    p = logits.softmax(-1)
    continuous = (z - quantized.double()).square().sum(-1).mean() / (2 * math.exp(0.3))
    expected = continuous + (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(indices, distance.argmin(-1))
    layer.eval()
    plain: Tensor = layer(z.float()).quantized
    torch.testing.assert_close(plain, layer.codebook[indices])


@pytest.mark.parametrize("which", GRIDS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_grids_hold_known_names_and_no_case_twice(which: str, device: str) -> None:
    entries = grid(which, torch.device(device))
    names = [entry.case.name for entry in entries]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert entry.case.mode in MODES
        assert len(set(entry.names)) == len(entry.names)
        assert all(entry.case.mode in CONTESTANTS[name].modes for name in entry.names)

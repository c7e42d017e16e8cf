"""The variants of qbar: one part and no memory are the layer itself; the parts' objectives are averaged."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from gmvq import GaussianMixtureVQ
from gmvq.compare.aggregate import PartedVQ, RememberingVQ
from gmvq.compare.methods import build_quantizer


def pair(kind: type, **own: float) -> tuple[GaussianMixtureVQ, GaussianMixtureVQ, torch.Tensor]:
    torch.manual_seed(0)
    layer, variant = GaussianMixtureVQ(4, 8), kind(4, 8, **own)
    latents = torch.randn(64, 4)
    layer.init_codebook(latents)
    state = variant.state_dict()
    variant.load_state_dict({**state, **layer.state_dict()})
    return layer, variant, latents


@pytest.mark.parametrize(("kind", "own"), [(PartedVQ, {"parts": 1}), (RememberingVQ, {"memory": 0.0})])
def test_one_part_and_no_memory_are_the_layer(kind: type, own: dict) -> None:
    layer, variant, latents = pair(kind, **own)
    outs = []
    for quantizer in (layer, variant):
        torch.manual_seed(1)
        z = latents.clone().requires_grad_()
        out = quantizer(z)
        (out.nats + out.quantized.square().sum()).backward()
        outs.append((out.quantized, out.nats, z.grad, quantizer.scaled_codebook.grad))
    assert_close(*outs)


def test_parts_have_a_qbar_each() -> None:
    layer, variant, latents = pair(PartedVQ, parts=4)
    terms = [layer(part).terms["kl_aggregate"] for part in latents.split(16)]
    assert_close(variant(latents).terms["kl_aggregate"], torch.stack(terms).mean())


def test_memory_is_the_moving_average_of_qbar() -> None:
    _, variant, latents = pair(RememberingVQ, memory=0.9)
    first = variant.past.clone()
    q = GaussianMixtureVQ.forward(variant.eval(), latents)  # the same posterior, without memory
    variant.train()
    variant(latents)
    assert_close(variant.past.sum(), torch.tensor(1.0))
    assert float((variant.past - first).abs().max()) > 0
    assert q.indices.shape == (64,)


def test_runs_name_them() -> None:
    run = {"quantizer": "gm-vq", "dim": 4, "codebook_size": 8, "options": {"aggregate_parts": 4}}
    assert isinstance(build_quantizer(run), PartedVQ)
    run["options"] = {"aggregate_memory": 0.9, "support": 2}
    assert isinstance(build_quantizer(run), RememberingVQ)

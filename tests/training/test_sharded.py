"""Fully sharded parameters (FSDP2) in a loop of one's own: torch's ``fully_shard`` on two gloo processes trains as one.

The quantizer's parameters are small, and its M-steps write into them: they go into ``ignored_params``, whole on every
rank, and their gradients are averaged by hand.

``ShardedStrategy`` does the same under Lightning: ``test_ranks.py``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from gmvq import (
    GaussianLikelihood,
    GaussianMixtureVQ,
    GumbelSoftmax,
    Variance,
    VQAutoencoder,
    negative_evidence,
)
from gmvq.functional.schedules import Constant
from gmvq.models import build_networks

WORLD, IMAGES, STEPS = 2, 8, 5

pytestmark = [
    pytest.mark.xdist_group("ranks"),
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo backend"
    ),
]


def build() -> VQAutoencoder:
    """A started autoencoder without noise, the same on every rank."""
    torch.manual_seed(0)
    encoder, decoder = build_networks("tiny", channels=1, dim=4, downsample=4)
    quantizer = GaussianMixtureVQ(
        4, 8, estimator=GumbelSoftmax(noise=Constant(0.0)), variance=Variance(noise=Constant(0.0))
    )
    model = VQAutoencoder(encoder, quantizer, decoder)
    with torch.no_grad():
        quantizer.init_codebook(encoder(images()).movedim(1, -1))
    return model


def images() -> Tensor:
    return torch.rand(IMAGES, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def train(model: torch.nn.Module, mine: Tensor) -> list[Tensor]:
    """Losses of a few steps; what each rank returns averages to that of the whole batch.

    Plain steps: the gradient of the encoder's last bias is zero, as a shift of all latents has none, and Adam would
    make steps of full size of what rounding leaves of it.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=3e-5)
    likelihood, losses = GaussianLikelihood(), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        out: Any = model(mine)
        loss = negative_evidence(likelihood, out.reconstruction, mine, out.quantizer)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def average(parameter: Tensor) -> None:
    """A gradient that ``fully_shard`` leaves alone, averaged over ranks."""
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= WORLD


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    path = Path(folder)
    model = build()  # before there is a group, whose statistics would be pooled: the same start on every rank
    dist.init_process_group(
        "gloo",
        init_method=f"file://{path / 'rendezvous'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=100),
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    parts: list[Any] = [model.encoder, model.decoder, model]
    quantizer: Any = model.quantizer
    whole = set(quantizer.parameters())
    for part in parts:
        fully_shard(part, mesh=mesh, ignored_params=whole)
    for parameter in whole:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(average)
    losses = torch.stack(train(model, images()[rank::WORLD]))
    dist.all_reduce(losses)
    if rank == 0:
        torch.save(losses / WORLD, path / "losses.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_sharded_training_equals_one_process(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=WORLD)  # pyright: ignore[reportPrivateImportUsage]
    losses = torch.load(tmp_path / "losses.pt", weights_only=True)
    torch.testing.assert_close(losses, torch.stack(train(build(), images())), rtol=1e-5, atol=1e-5)

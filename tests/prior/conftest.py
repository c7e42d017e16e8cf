"""Small priors with weights away from their start, so that their distributions are not flat; a run of a prior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="the prior needs the extra 'prior'")

from gmvq import ResidualGMVQ, build_autoencoder
from gmvq.cli.main import main
from gmvq.prior import TokenPrior, TokenSpec

SMALL = [
    "--trainer.accelerator", "cpu", "--logger", "none", "--data.batch_size", "8", "--trainer.val_check_interval", "3",
    "--trainer.enable_progress_bar", "false", "--model.warmup_steps", "2", "--trainer.log_every_n_steps", "1",
]  # fmt: skip


def make_prior(spec: TokenSpec, kind: Any = "causal", spread: float = 0.3, **options: Any) -> TokenPrior:
    """The same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        prior = TokenPrior(spec, kind, **options)
        for parameter in (
            prior.network.head,
            prior.network.places.weight,
            prior.network.body.embed_tokens.weight,
        ):
            torch.nn.init.normal_(parameter, std=spread)
    return prior.eval()


@pytest.fixture
def build() -> Callable[..., TokenPrior]:
    return make_prior


def every_image(spec: TokenSpec) -> Tensor:
    """All K^L images, (K^L, *shape)."""
    codes = torch.arange(spec.codebook_size)
    return spec.indices(torch.cartesian_prod(*[codes] * spec.length) + spec.offsets(codes.device))


@pytest.fixture
def small() -> list[str]:
    """Options of a run of a few seconds."""
    return SMALL


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, its tokens of 40 train and 12 test images with labels, and a run of 6 steps."""
    folder = tmp_path_factory.mktemp("prior")
    random = np.random.default_rng(0)
    images = np.kron(random.integers(0, 255, (52, 2, 2, 3), dtype=np.uint8), np.ones((1, 4, 4, 1), np.uint8))
    labels = random.integers(0, 3, 52)
    np.savez(
        folder / "data.npz", x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:]
    )
    torch.manual_seed(0)
    for name, quantizer in (("plain", None), ("levels", ResidualGMVQ(4, 8, 2))):
        model = build_autoencoder("tiny", codebook_size=8, quantizer=quantizer)
        with torch.no_grad():
            latents = model.encoder(torch.from_numpy(images[:40]).permute(0, 3, 1, 2).float() / 255).movedim(
                1, -1
            )
            model.quantizer.init_codebook(latents.reshape(-1, 4))  # pyright: ignore[reportCallIssue]
        model.save_pretrained(folder / name, metadata={"data": {"path": str(folder / "data.npz"), "size": 8}})
        argv = ["encode", folder / name, "--out", folder / f"{name}-tokens", "--quiet", "--batch_size", "16"]
        assert main([str(part) for part in argv]) == 0
    argv = [
        "prior",
        "fit",
        folder / "plain-tokens",
        "--out",
        folder / "run",
        *SMALL,
        "--trainer.max_steps",
        "6",
    ]
    assert main([str(part) for part in [*argv, "--save_every", "2"]]) == 0
    return folder

"""A tokenizer of a few codes that knows a little about colours, a masked prior over its tokens, and a picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("PIL", reason="the pages need the extra 'app'")
pytest.importorskip("transformers", reason="the pages need the extra 'app'")

from small_run import here, workplace

from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.prior import TokenPrior, TokenSpec

__all__ = ["here", "workplace"]


@pytest.fixture(scope="session")
def picture() -> Tensor:
    """(3, 32, 44): coloured squares of four pixels, no two alike."""
    generator = torch.Generator().manual_seed(1)
    squares = (255 * torch.rand(3, 8, 11, generator=generator)).round() / 255
    return squares.repeat_interleave(4, 1).repeat_interleave(4, 2)


@pytest.fixture(scope="session")
def model(picture: Tensor) -> VQAutoencoder:
    """4 x 4 pixels to one of 16 codes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_autoencoder("tiny", codebook_size=16, dim=4)
        with torch.no_grad():
            latents = model.encoder(picture[None]).movedim(1, -1)
            model.quantizer.init_codebook(latents)  # pyright: ignore[reportAttributeAccessIssue]
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def prior() -> TokenPrior:
    """Over 4 x 5 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TokenPrior(TokenSpec((4, 5), codebook_size=16), "masked").eval()

"""z ~ N(mu_c, noise^2 / w) and c ~ pi against the mixture they are drawn from."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from gmvq import GaussianMixtureVQ, ResidualGMVQ, VQAutoencoder, build_autoencoder
from gmvq.prior import decode, mixture_indices
from gmvq.quantizers.parts import Precision


class Reads(torch.nn.Module):
    """A decoder that returns what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.scale


@pytest.fixture
def tokenizer() -> VQAutoencoder:
    torch.manual_seed(0)
    quantizer = GaussianMixtureVQ(3, 4, mixture_weights="learned", precision=Precision(per_feature=True))
    quantizer.init_codebook(torch.randn(64, 3) * 2 + 1)
    with torch.no_grad():
        quantizer.log_precision.copy_(torch.tensor([0.0, 1.0, 2.0]))
    return VQAutoencoder(torch.nn.Identity(), quantizer, Reads()).eval()


def test_without_noise_it_is_the_tokenizers_decode(tokenizer: VQAutoencoder) -> None:
    indices = torch.randint(4, (5, 2, 2))
    torch.testing.assert_close(decode(tokenizer, indices), tokenizer.decode(indices))
    model = build_autoencoder(codebook_size=8)
    model.quantizer.init_codebook(torch.randn(64, 4))
    indices = torch.randint(8, (5, 2, 2))
    assert torch.equal(decode(model, indices, batch_size=5), model.decode(indices).float())


@pytest.mark.parametrize(("noise", "units"), [(1.0, "standardized"), (0.5, "standardized"), (0.5, "latents")])
def test_noise_has_the_components_mean_and_precision(
    tokenizer: VQAutoencoder, noise: float, units: Literal["standardized", "latents"]
) -> None:
    quantizer: GaussianMixtureVQ = tokenizer.quantizer  # pyright: ignore[reportAssignmentType]
    quantizer.units = units
    indices = torch.full((200, 20, 10), 2)
    z = decode(tokenizer, indices, noise=noise).movedim(1, -1).reshape(-1, 3)
    z = quantizer.standardized(z) if units == "latents" else z
    deviation = noise * (-0.5 * quantizer.log_precision.detach()).exp()
    torch.testing.assert_close(z.std(0), deviation, rtol=0.02, atol=0)
    assert ((z.mean(0) - quantizer.codebook[2]).abs() < 5 * deviation / len(z) ** 0.5).all()


def test_same_seed_same_latents(tokenizer: VQAutoencoder) -> None:
    indices = torch.randint(4, (3, 2, 2))
    one = decode(tokenizer, indices, noise=1.0, seed=1)
    assert torch.equal(decode(tokenizer, indices, noise=1.0, seed=1), one)
    assert not torch.equal(decode(tokenizer, indices, noise=1.0, seed=2), one)


def test_codes_come_by_the_mixtures_weights(tokenizer: VQAutoencoder) -> None:
    quantizer: GaussianMixtureVQ = tokenizer.quantizer  # pyright: ignore[reportAssignmentType]
    pi = quantizer.log_weights().exp().detach()
    drawn = mixture_indices(tokenizer, 500, (4, 5), seed=1)
    assert drawn.shape == (500, 4, 5)
    seen = torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()
    assert ((seen - pi).abs() < 4.5 * (pi / drawn.numel()).sqrt()).all()


def test_what_is_no_single_mixture_says_so(tokenizer: VQAutoencoder) -> None:
    residual = VQAutoencoder(torch.nn.Identity(), ResidualGMVQ(3, 4, 2), Reads())
    indices = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="ResidualGMVQ has none of its own"):
        decode(residual, indices, noise=1.0)
    with pytest.raises(ValueError, match="ResidualGMVQ has no pi"):
        mixture_indices(residual, 1, (2, 2))
    for noise in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="noise must not be negative"):
            decode(tokenizer, indices[..., 0], noise=noise)
    with pytest.raises(ValueError, match="masked positions"):
        decode(tokenizer, indices[..., 0] - 1, noise=1.0)
    with pytest.raises(ValueError, match=r"lie in \[0, 3\]"):
        decode(tokenizer, indices[..., 0] + 4, noise=1.0)

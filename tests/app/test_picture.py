"""Reading, encoding and measuring a picture, and its maps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gmvq.app import picture as pictures
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.quantizers import ResidualGMVQ


def test_reading_scales_down_and_keeps_pixels(tmp_path: Path, picture: Tensor) -> None:
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(pictures.read_picture(tmp_path / "a.png", 3), picture)
    assert pictures.read_picture(tmp_path / "a.png", 1).shape == (1, 32, 44)
    assert pictures.read_picture(tmp_path / "a.png", 3, max_side=22).shape == (3, 16, 22)


def test_bad_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(ValueError, match="not an image"):
        pictures.read_picture(file, 3)
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="the limit is"):
        pictures.read_picture(file, 3)


def test_tokens_and_reconstruction_are_the_models(model: VQAutoencoder, picture: Tensor) -> None:
    encoded = pictures.encode(model, picture)
    assert torch.equal(encoded.indices, model.encode(picture[None])[0])
    decoded = pictures.decode_tokens(model, encoded)
    assert torch.equal(decoded, model.reconstruct(picture[None])[0].clamp(0, 1))


def test_other_sizes_are_padded_and_cut(model: VQAutoencoder, picture: Tensor) -> None:
    encoded = pictures.encode(model, picture[:, :30, :41])
    assert encoded.indices.shape == (8, 11)
    assert pictures.decode_tokens(model, encoded).shape == (3, 30, 41)
    assert pictures.encode(model, picture[:, :1, :1]).indices.shape == (1, 1)


def test_figures(model: VQAutoencoder, picture: Tensor) -> None:
    encoded = pictures.encode(model, picture)
    half = replace(encoded, indices=torch.tensor([3, 5]).repeat(44).view(8, 11))
    found = dict(pictures.figures(model, half, picture * 0.5))
    assert found["tokens"] == "11 × 8 = 88"
    assert found["bits per pixel"] == "0.250 (44 bytes)"
    assert found["bits per pixel, entropy of its codes"] == "0.062"
    assert found["codes in it"] == "2 of 16"
    mse = float((picture * 0.5).square().mean())
    assert found["PSNR"] == f"{-10 * math.log10(mse):.2f} dB"


def test_every_token_has_the_colour_of_its_code(model: VQAutoencoder, picture: Tensor) -> None:
    colours = pictures.colour_table(model)
    assert len(np.unique(colours, axis=0)) == 16
    encoded = pictures.encode(model, picture)
    shown = pictures.token_picture(model, encoded)
    scale = pictures.zoom(encoded)
    assert shown.shape == (32 * scale, 44 * scale, 3)
    assert (shown[5 * 4 * scale, 7 * 4 * scale] == colours[encoded.indices[5, 7]]).all()


@pytest.mark.parametrize("size", [1, 2])
def test_colours_of_few_codes(size: int) -> None:
    model = build_autoencoder("tiny", codebook_size=size, dim=2)
    assert pictures.colour_table(model).shape == (size, 3)


def test_entropy_is_that_of_the_posterior(model: VQAutoencoder, picture: Tensor) -> None:
    encoded = pictures.encode(model, picture)
    p = model.quantizer.posterior_logits(encoded.latents).exp().double()  # pyright: ignore[reportAttributeAccessIssue]
    expected = -(p * p.clamp_min(1e-300).log2()).sum(-1).float()
    torch.testing.assert_close(pictures.posterior_entropy(model, encoded), expected, atol=1e-5, rtol=1e-4)
    assert expected.max() > 0.01


@pytest.mark.parametrize("kind", ["variance", "entropy"])
def test_uncertainty_varies_over_the_picture(model: VQAutoencoder, picture: Tensor, kind: str) -> None:
    encoded = pictures.encode(model, picture)
    shown, low, high = pictures.uncertainty(model, encoded, kind)
    assert low < high
    assert shown.shape == pictures.token_picture(model, encoded).shape
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 10


def test_other_models_are_refused(model: VQAutoencoder) -> None:
    pictures.check_model(model)
    with pytest.raises(ValueError, match="this model is of signals"):
        pictures.check_model(build_autoencoder("tiny", spatial_dims=1))
    own = VQAutoencoder(nn.Identity(), model.quantizer, nn.Identity())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="these are others"):
        pictures.check_model(own)
    several = build_autoencoder("tiny", quantizer=ResidualGMVQ(dim=4, codebook_size=8, num_quantizers=2))
    with pytest.raises(ValueError, match="one code for each position"):
        pictures.check_model(several)


def test_a_model_without_codes_is_refused(picture: Tensor) -> None:
    with pytest.raises(ValueError, match="no codebook yet"):
        pictures.encode(build_autoencoder("tiny").eval(), picture)


def test_the_example_is_a_photograph() -> None:
    pytest.importorskip("skimage")
    assert pictures.example_picture(3).shape == (3, 512, 512)
    assert pictures.example_picture(1, 64).shape == (1, 64, 64)
    assert pictures.example_picture(3).std() > 0.1

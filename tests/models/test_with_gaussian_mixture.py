"""The autoencoder with the quantizer it is made for: training, exact tokens, saving."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.quantizers import GaussianMixtureVQ, GroupedGMVQ, RaggedGMVQ, ResidualGMVQ


def exactly(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def trained() -> VQAutoencoder:
    """A few steps, so that every buffer has left its initial value."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", dim=6, codebook_size=12)
    model.quantizer.init_codebook(torch.randn(64, 6))
    optimizer = torch.optim.Adam(model.parameter_groups(lr=1e-3))
    for step in range(3):
        model.quantizer.set_progress(step / 3)
        x = torch.rand(4, 3, 16, 16)
        out = model(x)
        optimizer.zero_grad()
        ((out.reconstruction - x).square().mean() + out.quantizer.loss).backward()
        optimizer.step()
    return model


def test_every_parameter_gets_a_gradient_and_a_group(trained: VQAutoencoder) -> None:
    grouped = [parameter for group in trained.parameter_groups(lr=1e-3) for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trained.parameters()}
    assert len(grouped) == len(set(map(id, grouped)))
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        else:  # statistics of the latents, which the M-step sets
            assert name.removeprefix("quantizer.") in ("log_precision", "mean", "scale")


@pytest.mark.parametrize("autocast", [False, True])
def test_encode_decode_reconstruct_and_forward_agree(trained: VQAutoencoder, autocast: bool) -> None:
    x = torch.rand(2, 3, 16, 24)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = trained.eval()(x)
        trained.train()
        indices, log_variance = trained.encode(x, return_log_variance=True)
        exactly(indices, expected.quantizer.indices)
        exactly(log_variance, expected.quantizer.log_variance)
        exactly(trained.encode(x), indices)
        exactly(trained.decode(indices), expected.reconstruction)
        exactly(trained.reconstruct(x), expected.reconstruction)
    for name, value in trained.state_dict().items():  # encoding in training mode trains nothing
        exactly(value, state[name])


def test_encode_in_training_knows_what_the_last_step_taught(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = build_autoencoder("tiny", dim=6, codebook_size=12), torch.rand(4, 3, 16, 16)
    model.quantizer.init_codebook(torch.randn(64, 6))
    model.train()(x)  # moves the codebook, but not before it has to
    indices, restored = model.encode(x), model.reconstruct(x)
    model.save_pretrained(tmp_path)
    loaded = VQAutoencoder.from_pretrained(tmp_path)
    exactly(loaded.encode(x), indices)
    exactly(loaded.reconstruct(x), restored)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", [GaussianMixtureVQ, ResidualGMVQ, GroupedGMVQ])
def test_without_a_codebook_it_says_what_to_do(kind: type[nn.Module], tmp_path: Path) -> None:
    x, fresh = torch.rand(4, 3, 16, 16), build_autoencoder("tiny", quantizer=kind(6, 12))
    fresh.save_pretrained(tmp_path)
    model = VQAutoencoder.from_pretrained(tmp_path)
    out = model(x)  # the continuous autoencoder
    assert (out.quantizer.indices == -1).all()
    zeros = torch.zeros_like(out.quantizer.indices)
    for use in (lambda: model.encode(x), lambda: model.reconstruct(x), lambda: model.decode(zeros)):
        with pytest.raises(ValueError, match=r"no codebook yet: .*train it .*init_codebook\(latents\)"):
            use()
    model.train()(x)
    indices = model.encode(x)  # of a codebook that starts from what training has seen, as eval() does
    assert (indices >= 0).all()
    exactly(model.eval()(x).quantizer.indices, indices)
    loaded = VQAutoencoder.from_pretrained(tmp_path)
    loaded.quantizer.init_codebook(torch.randn(64, 6))  # pyright: ignore[reportCallIssue]
    exactly(loaded.decode(loaded.encode(x)), loaded(x).reconstruction)


def test_mask(trained: VQAutoencoder) -> None:
    x, mask = torch.rand(2, 3, 16, 24), torch.rand(2, 4, 6) > 0.5
    out = trained.eval()(x, mask)
    exactly(trained.encode(x, mask), out.quantizer.indices)
    exactly(trained.decode(out.quantizer.indices), out.reconstruction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_exact(trained: VQAutoencoder, tmp_path: Path, dtype: torch.dtype) -> None:
    model = copy.deepcopy(trained).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = VQAutoencoder.from_pretrained(tmp_path)
    assert isinstance(loaded.quantizer, GaussianMixtureVQ)
    for name, value in model.state_dict().items():
        exactly(loaded.state_dict()[name], value)
    x = torch.rand(2, 3, 16, 16, dtype=dtype)
    exactly(loaded(x).reconstruction, model.reconstruct(x))
    loaded.train()(x)  # training goes on from the loaded codebook: nothing is initialised anew
    exactly(loaded.quantizer.codebook, model.quantizer.codebook)


def test_unknown_quantizer(trained: VQAutoencoder, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"type": "GaussianMixtureVQ"', '"type": "Other"'))
    with pytest.raises(ValueError, match=r"config\.json: the entry 'quantizer' .*'Other'"):
        VQAutoencoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("spending", [{"budget": 5}, {"distortion": 0.5}, {}])
def test_what_is_spent_goes_through_the_model(spending: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, images = build_autoencoder("tiny", quantizer=RaggedGMVQ(4, 16)), torch.rand(4, 3, 16, 32)
    with torch.no_grad():
        model.quantizer.init_codebook(model._latents(images))  # pyright: ignore
    model.eval()
    indices, log_variance = model.encode(images, return_log_variance=True, **spending)
    assert torch.equal(model.encode(images, **spending), indices)
    assert torch.equal(model.reconstruct(images, **spending), model.decode(indices))
    with torch.no_grad():
        out = model(images, **spending)
    assert torch.equal(out.reconstruction, model.decode(indices))
    assert torch.equal(out.quantizer.log_variance, log_variance)
    counts = model.quantizer.code_counts(indices)  # pyright: ignore
    assert (counts <= spending.get("budget", 32)).all()


def test_what_cannot_be_spent_is_refused() -> None:
    model, images = build_autoencoder("tiny", codebook_size=8), torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="GaussianMixtureVQ has a code for each position"):
        model.encode(images, budget=4)
    with pytest.raises(TypeError, match="known are budget and distortion"):
        model.encode(images, bugdet=4)

"""The autoencoder: encode, decode, reconstruct and forward agree; any module; modes; parameter groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gmvq.models import AutoencoderOutput, VQAutoencoder, build_autoencoder, build_networks_1d

MakeQuantizer = Callable[[int, int], nn.Module]


def exactly(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


class Patches(nn.Module):
    """(B, 1, H, W) to one vector per 4 x 4 patch, features last, as in a transformer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)[:, 0])


class Unpatch(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 16)

    def forward(self, z: Tensor) -> Tensor:
        y = self.linear(z).unflatten(-1, (4, 4)).transpose(2, 3)  # (B, H/4, 4, W/4, 4)
        return y.flatten(3).flatten(1, 2)[:, None]


def test_forward_shapes_and_gradients(model: VQAutoencoder, images: Tensor) -> None:
    out = model(images)
    assert isinstance(out, AutoencoderOutput)
    assert out.reconstruction.shape == images.shape
    assert out.quantizer.quantized.shape == (2, 4, 6, 8)
    assert out.quantizer.indices.shape == (2, 4, 6)
    assert out.quantizer.indices.dtype == torch.int64
    ((out.reconstruction - images).square().mean() + out.quantizer.loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
def test_encode_decode_reconstruct_and_forward_agree(
    model: VQAutoencoder, images: Tensor, memory_format: torch.memory_format, autocast: bool
) -> None:
    model.to(memory_format=memory_format)
    images = images.contiguous(memory_format=memory_format)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = model.eval()(images)
        model.train()
        indices = model.encode(images)
        exactly(indices, expected.quantizer.indices)
        exactly(model.decode(indices), expected.reconstruction)
        exactly(model.reconstruct(images), expected.reconstruction)


def test_half_precision_parameters(model: VQAutoencoder, images: Tensor) -> None:
    model.to(torch.bfloat16).eval()
    out = model(images.bfloat16())
    assert out.reconstruction.dtype == torch.bfloat16
    exactly(model.decode(model.encode(images.bfloat16())), out.reconstruction)


def test_tokens_of_other_sizes(model: VQAutoencoder) -> None:
    indices = model.encode(torch.rand(1, 3, 8, 32))
    assert indices.shape == (1, 2, 8)
    assert model.decode(indices).shape == (1, 3, 8, 32)


def test_log_variance_on_request(model: VQAutoencoder, images: Tensor) -> None:
    indices, log_variance = model.encode(images, return_log_variance=True)
    exactly(indices, model.encode(images))
    exactly(log_variance, model.eval()(images).quantizer.log_variance)


def test_mask_over_latent_positions(model: VQAutoencoder, images: Tensor) -> None:
    mask = torch.rand(2, 4, 6) > 0.5
    out = model.eval()(images, mask)
    exactly(out.quantizer.indices == -1, ~mask)
    exactly(model.encode(images, mask), out.quantizer.indices)
    exactly(model.decode(out.quantizer.indices), out.reconstruction)
    exactly(model.reconstruct(images, mask), out.reconstruction)


def test_modes_are_restored_also_after_an_error(model: VQAutoencoder, images: Tensor) -> None:
    model.train()
    model.encoder.eval()  # a frozen encoder stays in eval mode
    before = [module.training for module in model.modules()]
    seen: list[bool] = []
    model.decoder.register_forward_hook(lambda module, args, out: seen.append(module.training))
    reconstruction = model.reconstruct(images)
    assert seen == [False]
    assert not reconstruction.requires_grad
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="divisible"):
        model.encode(images[..., :-1])
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_custom_modules_with_features_last(nearest_code: MakeQuantizer) -> None:
    model = VQAutoencoder(Patches(6), nearest_code(6, 10), Unpatch(6), layout="channels_last").eval()
    x = torch.rand(3, 1, 8, 12)
    out = model(x)
    assert out.quantizer.indices.shape == (3, 2, 3)
    assert out.reconstruction.shape == x.shape
    exactly(model.decode(model.encode(x)), out.reconstruction)


def test_signals(nearest_code: MakeQuantizer) -> None:
    encoder, decoder = build_networks_1d("tiny", channels=2, dim=6, downsample=8)
    model = VQAutoencoder(encoder, nearest_code(6, 10), decoder).eval()
    x = torch.rand(2, 2, 48)
    out = model(x)
    assert out.quantizer.indices.shape == (2, 6)
    exactly(model.reconstruct(x), out.reconstruction)


def test_one_latent_per_input_and_no_decoder_parameters(nearest_code: MakeQuantizer) -> None:
    model = VQAutoencoder(nn.Linear(5, 6), nearest_code(6, 10), nn.Identity()).eval()
    x = torch.rand(4, 5)
    assert model.encode(x).shape == (4,)
    exactly(model.reconstruct(x), model(x).reconstruction)


def test_mismatch_of_dims(nearest_code: MakeQuantizer) -> None:
    with pytest.raises(
        ValueError, match=r"dim=4, but the encoder's output has shape \(1, 2, 3, 6\), of which"
    ):
        VQAutoencoder(Patches(6), nearest_code(4, 10), Unpatch(4), layout="channels_last")(
            torch.rand(1, 1, 8, 12)
        )
    with pytest.raises(ValueError, match="pass layout='channels_last'"):
        VQAutoencoder(Patches(6), nearest_code(6, 10), Unpatch(6))(torch.rand(1, 1, 8, 12))
    with pytest.raises(ValueError, match="layout must be one of"):
        VQAutoencoder(nn.Identity(), nearest_code(6, 10), nn.Identity(), layout="last")  # type: ignore[arg-type]


def test_parameter_groups_hold_every_parameter_once(model: VQAutoencoder) -> None:
    groups = model.parameter_groups(lr=1e-3)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.parameters()}
    assert [group["lr"] for group in groups] == [1e-3, 5e-3]
    torch.optim.Adam(groups)


def test_output_is_a_pytree(model: VQAutoencoder, images: Tensor) -> None:
    out = model(images)
    leaves, spec = pytree.tree_flatten(out)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    exactly(pytree.tree_unflatten(leaves, spec).reconstruction, out.reconstruction)


def test_build_autoencoder_takes_the_dim_of_the_quantizer(nearest_code: MakeQuantizer) -> None:
    model = build_autoencoder("tiny", channels=1, downsample=8, quantizer=nearest_code(5, 7))
    assert model.encode(torch.rand(1, 1, 16, 16)).shape == (1, 2, 2)


class Reconstruct(nn.Module):
    """``reconstruct``, that is encode and decode, as a forward pass, as torch.export wants it."""

    def __init__(self, model: VQAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.reconstruct(x)


def test_encode_and_decode_export(model: VQAutoencoder, images: Tensor) -> None:
    exported = torch.export.export(Reconstruct(model), (images,)).module()
    exactly(exported(images), model.reconstruct(images))


def test_encode_and_decode_compile_in_training_mode(model: VQAutoencoder, images: Tensor) -> None:
    compiled = torch.compile(model.reconstruct, fullgraph=True, backend="eager")
    exactly(compiled(images), model.reconstruct(images))
    assert all(module.training for module in model.modules())

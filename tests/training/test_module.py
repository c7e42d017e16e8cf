"""TokenizerModule: its loss, optimizer, schedules, and checkpoints that load anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gmvq.models import VQAutoencoder
from gmvq.objectives import negative_evidence
from gmvq.quantizers import GaussianMixtureVQ
from gmvq.training import ImageDataModule, TokenizerModule, load_model, read_checkpoint
from gmvq.training.checkpoint import find_model, open_model
from gmvq.training.optimizer import learning_rate_factor, seed_step
from gmvq.training.parts import likelihood_of
from gmvq.training.trainer import export_run

Fit = Callable[..., TokenizerModule]


@pytest.fixture(scope="module")
def trained(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    fit(run_dir, max_steps=3, start_after=0, settings={"likelihood": "laplace"})
    return run_dir


def test_loss_is_the_negative_evidence_per_value(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TokenizerModule(dim=4, codebook_size=16)
    monkeypatch.setattr(TokenizerModule, "trainer", None)
    monkeypatch.setattr("gmvq.training.module.is_logged", lambda *_: False)
    images = torch.rand(8, 3, 8, 8)
    module.model.quantizer(module.model._latents(images))  # starts the codebook
    seed_step(0, 0, 0)
    loss = module.training_step(images, 0)
    seed_step(0, 0, 0)
    out = module.model(images)
    expected = negative_evidence(module.likelihood, out.reconstruction, images, out.quantizer)
    torch.testing.assert_close(loss, expected / (3 * 8 * 8))
    assert int(module.likelihood.observations) == 1


def test_every_parameter_is_optimized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TokenizerModule(
        dim=4, codebook_size=16, mixture_weights="learned", likelihood_scale="learned", weight_decay=0.1
    )
    monkeypatch.setattr(TokenizerModule, "total_steps", 10)
    optimizer = module.configure_optimizers()["optimizer"]  # pyright: ignore
    found = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert len(found) == len({id(p) for p in found})
    assert {id(p) for p in found if p.requires_grad} == {id(p) for p in wanted}
    quantizer: Any = module.model.quantizer
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed
    assert not {id(p) for p in decayed} & {
        id(p) for p in (*quantizer.parameters(), *module.likelihood.parameters())
    }


def test_a_step_seeds_the_cpu_and_its_own_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.manual_seed`` keeps a stack trace for every kind of device that was never used, in every step."""

    def refuse(_: int) -> None:
        raise AssertionError("seeded a device that is not in use")

    for kind in (torch.cuda, torch.xpu, torch.mps):
        monkeypatch.setattr(
            kind, "manual_seed_all" if hasattr(kind, "manual_seed_all") else "manual_seed", refuse
        )
    draws = []
    for batch in (1, 1, 2):
        seed_step(3, 0, batch, torch.device("cpu"))
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def _optimizer(module: TokenizerModule, monkeypatch: pytest.MonkeyPatch) -> torch.optim.Optimizer:
    monkeypatch.setattr(TokenizerModule, "total_steps", 10)
    return module.configure_optimizers()["optimizer"]  # pyright: ignore


def test_the_fused_optimizer_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding; and it goes on from a checkpoint of the plain one."""
    modules = [TokenizerModule(dim=4, codebook_size=16, weight_decay=0.1) for _ in range(2)]
    fused = _optimizer(modules[0], monkeypatch)
    assert all(group["fused"] for group in fused.param_groups)
    monkeypatch.setattr("gmvq.training.optimizer.can_fuse", lambda _: False)
    plain = _optimizer(modules[1], monkeypatch)
    assert not any(group["fused"] for group in plain.param_groups)

    def step(optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter).normal_(generator=generator)
        optimizer.step()

    for seed in range(3):
        step(fused, seed)
        step(plain, seed)
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
    state = plain.state_dict()
    fused.load_state_dict(state)
    step(fused, 3)


def test_the_fused_optimizer_goes_on_from_averages_in_another_memory_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's fused Adam on a CPU reads memory in order, whatever the strides."""
    module = TokenizerModule(dim=4, codebook_size=16)
    optimizer = _optimizer(module, monkeypatch)
    for parameter in module.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    for averages in state["state"].values():
        averages["exp_avg"] = averages["exp_avg"].clone(memory_format=torch.contiguous_format)
    optimizer.load_state_dict(state)
    for parameter, averages in optimizer.state.items():
        assert averages["exp_avg"].stride() == parameter.stride()


def test_gradients_can_be_clipped(fit: Fit, tmp_path: Path) -> None:
    """Lightning refuses that for a fused optimizer under autocast."""
    module = fit(tmp_path, max_steps=2, gradient_clip_val=0.5, precision="bf16-mixed")
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_learning_rate() -> None:
    rates = [learning_rate_factor(step, total=1000, warmup=50, final=0.02) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 51, rel=1e-3)
    assert max(rates) > 0.99
    assert rates.index(max(rates)) == 50
    assert rates[1000] == pytest.approx(0.02)
    assert learning_rate_factor(0, total=10, warmup=0, final=0.0) == 1.0


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = TokenizerModule(dim=4, codebook_size=16, codebook_dim=2, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = (
        TokenizerModule(dim=4, codebook_size=16, codebook_dim=2, seed=seed).state_dict() for seed in (5, 6)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    assert any(name.startswith("model.encoder") for name in differ)
    assert any(name.startswith("model.quantizer") for name in differ)


def test_a_run_without_an_end_is_refused(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give trainer\.max_steps or trainer\.max_epochs"):
        fit(tmp_path, max_steps=-1, max_epochs=-1)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="lr must be positive"):
        TokenizerModule(lr=0.0)
    with pytest.raises(ValueError, match="final_lr"):
        TokenizerModule(final_lr=2.0)


def test_a_beam_reaches_the_search_over_levels() -> None:
    quantizer: Any = TokenizerModule(dim=4, codebook_size=8, num_quantizers=2, beam=3).model.quantizer
    assert quantizer.beam == 3
    assert quantizer.to_config()["beam"] == 3
    with pytest.raises(ValueError, match="beam needs levels"):
        TokenizerModule(dim=4, codebook_size=8, beam=3)


def test_a_model_of_your_own_trains_but_says_that_it_cannot_be_rebuilt(fit: Fit, tmp_path: Path) -> None:
    encoder, decoder = nn.Conv2d(3, 4, 4, stride=4), nn.ConvTranspose2d(4, 3, 4, stride=4)
    model = VQAutoencoder(encoder, GaussianMixtureVQ(4, 16), decoder)
    module = fit(tmp_path, max_steps=2, settings={"autoencoder": model})
    assert module.model is model
    with pytest.raises(ValueError, match="networks of its own"):
        load_model(tmp_path)


def test_checkpoint_loads_without_running_code(trained: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert json.loads(checkpoint["gmvq"]["settings"])["codebook_size"] == 16


def test_load_model_from_every_place(trained: Path, fit: Fit, images: str, tmp_path: Path) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    module = TokenizerModule(dim=4, codebook_size=16, likelihood="laplace")
    module.load_state_dict(read_checkpoint(last)["state_dict"])
    data = ImageDataModule(images, size=8, batch_size=6)
    run_dir = tmp_path / "run"
    export_run(run_dir, module, data, step=3, command="test")
    x = torch.rand(2, 3, 8, 8)
    expected = module.model.reconstruct(x)
    for place in (trained, last, last.parent, run_dir, run_dir / "model", run_dir / "model" / "config.json"):
        model = load_model(place)
        assert not model.training
        torch.testing.assert_close(model.reconstruct(x), expected, msg=str(place))
    for place in (last, run_dir):
        likelihood = likelihood_of(open_model(place).notes)
        assert likelihood is not None
        torch.testing.assert_close(likelihood.log_scale, module.likelihood.log_scale)
        assert open_model(place).notes["step"] == 3
        assert open_model(place).notes["data"]["path"] == images


def test_the_newer_of_model_and_checkpoint_counts(trained: Path, tmp_path: Path) -> None:
    last, model = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "model" / "config.json"
    for number, file in enumerate((last, model)):
        file.parent.mkdir()
        file.touch()
        os.utime(file, (number, number))
    assert find_model(tmp_path) == model.parent
    os.utime(last, (9, 9))
    assert find_model(tmp_path) == last


def test_names_of_the_hub_and_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("owner/name") == "owner/name"
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"did you mean runs.photos\?"):
        find_model("runs/photo")  # no look-up in the network for a mistyped folder
    assert find_model("hf:runs/photo") == "runs/photo"
    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_model("runs/photos")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is not a PyTorch checkpoint"),
        (b"hello", "is not a PyTorch checkpoint"),
        (b"PK\x03\x04 half", "is cut short or damaged"),
    ],
)
def test_broken_files(tmp_path: Path, contents: bytes, message: str) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        load_model(file)


def test_other_files(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ValueError, match="lacks the entry 'gmvq'"):
        load_model(file)
    checkpoint = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    checkpoint["gmvq"]["format_version"] = 99
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match="newer gmvq"):
        load_model(file)
    checkpoint["gmvq"]["format_version"] = 1
    weights = checkpoint["state_dict"]
    codebook = next(name for name, value in weights.items() if value.shape == (16, 4))
    weights[codebook] = weights[codebook][:3].clone()
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match=r"codebook, expected \(16, 4\), got \(3, 4\)"):
        load_model(file)


def test_ragged_codes_by_their_options() -> None:
    quantizer: Any = TokenizerModule(dim=4, codebook_size=8, scales=2, ragged=True).model.quantizer
    assert quantizer.to_config()["type"] == "RaggedGMVQ"
    assert quantizer.scales == 2
    with pytest.raises(ValueError, match="ragged needs blocks"):
        TokenizerModule(dim=4, codebook_size=8, ragged=True)
    with pytest.raises(ValueError, match="none of them ragged"):
        TokenizerModule(dim=4, codebook_size=8, scales=2, ragged=True, shared_codebook=True)

"""A study on tiny images: its figures against their definitions, the codecs, resume, the command."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="the study needs the extra 'prior'")
pytest.importorskip("constriction", reason="the study needs the extra 'prior'")

from gmvq import VQAutoencoder
from gmvq.evaluation.metrics import per_image_ssim
from gmvq_bench.commands import main
from gmvq_bench.comparison.train import train_model
from gmvq_bench.rate_distortion.codecs import QUALITIES, _cut, _mosaic, codec_curve
from gmvq_bench.rate_distortion.points import Point, Study, describe, encode, measure_point, run_study
from gmvq_bench.rate_distortion.report import tables

pytestmark = pytest.mark.xdist_group("rate-distortion")  # one study, on one worker


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    file = tmp_path_factory.mktemp("rd") / "data.npz"
    random = np.random.default_rng(0)
    images = np.kron(random.integers(0, 255, (96, 4, 4, 3), dtype=np.uint8), np.ones((1, 4, 4, 1), np.uint8))
    np.savez(file, x_train=images[:64], x_test=images[64:])
    return Study(str(file), 16, steps=4, batch_size=8, prior_steps=8, images=30)


@pytest.fixture(scope="module")
def model(study: Study) -> VQAutoencoder:
    return train_model(describe(study, Point(8)))


@pytest.fixture(scope="module")
def figures(study: Study) -> dict:
    return measure_point(study, Point(8))


def test_a_points_figures_are_their_definitions(study: Study, model: VQAutoencoder, figures: dict) -> None:
    codes = encode(model, study.test_images())
    assert codes.shape == (30, 4, 4)
    p = np.bincount(codes.flatten(), minlength=8) / codes.numel()
    entropy = -sum(v * math.log2(v) for v in p if v)
    rates = figures["rates"]
    assert rates["fixed"] == pytest.approx(16 * 3 / 256)
    assert rates["entropy"] == pytest.approx(16 * entropy / 256, rel=1e-6)
    assert rates["aggregate"] <= rates["fixed"] * 1.0001
    assert figures["exact"]
    assert figures["images"] == 30
    assert 0 <= rates["coded"] - rates["prior"] < 0.02 * rates["prior"] + 64 / (30 * 256)
    bits = figures["bits_per_dimension"]
    assert bits["importance_weighted"] <= bits["elbo"]
    assert 0 <= figures["information"] <= math.log(8)


def test_beta_reaches_the_objective(study: Study) -> None:
    from gmvq.quantizers.parts import Objective
    from gmvq_bench.comparison.methods import build_quantizer

    quantizer = build_quantizer(describe(study, Point(8, beta=2.5)))
    assert quantizer.objective.beta(0.3) == 2.5  # pyright: ignore[reportAttributeAccessIssue]
    default = build_quantizer(describe(study, Point(8)))
    assert default.objective == Objective()  # pyright: ignore[reportAttributeAccessIssue]


def test_mirror_images_are_added(study: Study, model: VQAutoencoder) -> None:
    train = study.open("train")
    plain, both = encode(model, train), encode(model, train, flip=True)
    assert torch.equal(both[: len(plain)], plain)
    assert torch.equal(both[len(plain) :], model.encode(torch.stack([x.flip(-1) for x in train])))


def test_of_a_small_set_the_best_number_of_steps_is_chosen(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image that the choice is made on, nor its mirror image, is among those trained on."""
    import gmvq_bench.rate_distortion.points as points

    asked = []

    class Prior:
        def __init__(self, steps: int) -> None:
            self.steps = steps

        def nats(self, tokens: torch.Tensor) -> torch.Tensor:
            held.append(tokens)
            return torch.full((len(tokens),), abs(self.steps - 50.0))

        def to(self, device: str) -> Prior:
            return self

    def fit(tokens: torch.Tensor, codebook_size: int, *, steps: int, **options: object) -> Prior:
        asked.append((steps, tokens))
        return Prior(steps)

    held: list[torch.Tensor] = []
    monkeypatch.setattr(points, "fit_prior", fit)
    tokens = torch.arange(100).repeat(2)[:, None]
    study = dataclasses.replace(study, prior_steps=200, flip=True)
    assert points._best_prior(tokens, study, Point(8), "cpu")[1] == 50
    assert [steps for steps, _ in asked] == [25, 50, 100, 200, 50]
    assert set(held[0].flatten().tolist()).isdisjoint(asked[0][1].flatten().tolist())
    assert torch.equal(asked[-1][1], tokens)


@pytest.mark.parametrize("shape", [(5, 3, 16, 16), (7, 1, 28, 20), (1, 3, 8, 8)])
def test_a_mosaic_comes_apart_again(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    mosaic, columns = _mosaic(images)
    assert torch.equal(_cut(mosaic, images, columns), images)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_codecs_curve_falls_and_rises(codec: str, channels: int) -> None:
    images = torch.nn.functional.interpolate(torch.rand(9, channels, 4, 4), size=32, mode="bilinear")
    points = codec_curve(images, codec)
    assert tuple(p["quality"] for p in points) == QUALITIES[codec]
    assert all(less["bits_per_pixel"] <= more["bits_per_pixel"] for less, more in pairwise(points))
    assert points[0]["mse"] > points[len(points) // 2]["mse"] > points[-1]["mse"]
    for point in points:
        assert point["psnr"] == pytest.approx(-10 * math.log10(point["mse"]))


def test_jpegs_figures_are_those_of_the_file() -> None:
    images = torch.rand(4, 1, 16, 16)
    [point] = [p for p in codec_curve(images, "jpeg") if p["quality"] == 35]
    pixels = images.mul(255).round().to(torch.uint8)[:, 0]
    whole = torch.cat([torch.cat([pixels[0], pixels[1]], 1), torch.cat([pixels[2], pixels[3]], 1)]).numpy()
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "jpeg", quality=35, optimize=True)
    assert point["bits_per_pixel"] == pytest.approx(8 * len(file.getvalue()) / (4 * 256))
    decoded = torch.from_numpy(np.asarray(Image.open(file)).copy()).float() / 255
    tiles = torch.stack([decoded[:16, :16], decoded[:16, 16:], decoded[16:, :16], decoded[16:, 16:]])[:, None]
    assert point["mse"] == pytest.approx(float((tiles - images).square().mean()), rel=1e-5)
    assert point["ssim"] == pytest.approx(float(per_image_ssim(tiles, images).mean()), rel=1e-5)


def test_a_stopped_study_goes_on(
    study: Study, figures: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gmvq_bench.rate_distortion.points as sweep

    asked = []

    def measure(study: Study, point: Point, device: str) -> dict:
        asked.append(point)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {**figures, "point": {"codebook_size": point.codebook_size, "beta": None, "seed": point.seed}}

    monkeypatch.setattr(sweep, "measure_point", measure)
    points = [Point(8), Point(16)]
    with pytest.raises(KeyboardInterrupt):
        run_study(study, points, tmp_path, command="x", device="cpu", say=lambda text: None)
    results = run_study(study, points, tmp_path, command="x", device="cpu", say=lambda text: None)
    assert asked == [Point(8), Point(16), Point(16)]
    assert [p["point"]["codebook_size"] for p in results["points"]] == [8, 16]
    assert results == json.loads((tmp_path / "rd.json").read_text())
    (tmp_path / "points").rename(tmp_path / "elsewhere")
    (tmp_path / "points").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a symbolic link, through which nothing is written"):
        run_study(study, [Point(4)], tmp_path, command="x", device="cpu", say=lambda text: None)
    text = tables(results)
    assert "2 of 2 points" in text
    assert text.partition("`x`")[0].count("\n| ") == 3


def test_the_command(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = [
        "rd",
        "--data",
        study.data,
        "--size",
        "16",
        "--codebook_sizes",
        "4",
        "--betas",
        "1",
        "--steps",
        "2",
    ]
    argv += ["--prior_steps", "2", "--images", "5", "--batch_size", "8", "--out", str(out)]
    assert main(argv) == 0
    assert "1 of 2" not in capsys.readouterr().out
    assert {"rd.json", "rd.md", "rd.png", "points"} == {file.name for file in out.iterdir()}
    assert main(["rd", "--report", str(out / "rd.json"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "rd.md").read_text() == (out / "rd.md").read_text()
    hostile = json.loads((out / "rd.json").read_text()) | {
        "command": "\x1b`<b>`",
        "data": "[a](http:b)\x1b<img>",
    }
    (tmp_path / "hostile.json").write_text(json.dumps(hostile))
    capsys.readouterr()
    assert main(["rd", "--report", str(tmp_path / "hostile.json"), "--out", str(tmp_path / "again")]) == 0
    for text in (capsys.readouterr().out, (tmp_path / "again" / "rd.md").read_text()):
        assert r"`\x1b'<b>'`; 5 test images of \[a](http:b)\x1b\<img>" in text
    for bad in (
        ["--codebook_sizes", "0"],
        ["--betas", "-1"],
        ["--lr", "0"],
        ["--report", str(tmp_path / "none")],
    ):
        assert main(["rd", *bad, "--out", str(out)]) == 2
    assert main(["rd", "--data", str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "nothing" in capsys.readouterr().err

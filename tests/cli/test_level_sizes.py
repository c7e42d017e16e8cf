"""Levels with a codebook size each: trained, measured, stored, drawn from a prior, and exported by the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import Workplace

from gmvq.cli.main import main
from gmvq.cli.options import build_parser, build_run, parse_options
from gmvq.models.card import model_card
from gmvq.tokens import TokenDataset, read_manifest
from gmvq.tokens.statistics import statistics
from gmvq.training import TokenizerModule, load_model
from gmvq.training.finetune import options_of

SIZES = (16, 4)


@pytest.fixture(scope="module")
def run_dir(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of levels of 16 and 4 codes, as ``workplace.small`` otherwise."""
    folder = tmp_path_factory.mktemp("levels") / "run"
    argv = ["fit", *workplace.small, "--out", str(folder), "--trainer.max_steps", "60"]
    assert main([*argv, "--model.codebook_size", "[16, 4]"]) == 0
    return folder


def test_figures_are_those_of_each_level(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = load_model(run_dir)
    assert model.quantizer.codebook_sizes == SIZES
    figures: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    assert (figures["codebook_size"], figures["codebook_sizes"]) == (20, [16, 4])
    assert figures["usage"] == figures["codes_used"] / 20
    # 2 x 2 positions of 8 x 8 pixels
    assert figures["bits_per_pixel_fixed"] == pytest.approx(4 * (4 + 2) / 64)
    assert figures["perplexity"] <= math.sqrt(16 * 4)
    assert "16 + 4" in (run_dir / "report.html").read_text()
    text = model_card(model)
    assert "| codebook size K | 16 + 4 |" in text
    assert "| rate, codes of one length | 0.375 bits/pixel |" in text
    assert main(["evaluate", str(run_dir), "--json", str(run_dir / "again.json")]) == 0
    assert "codebook size" in capsys.readouterr().out
    again: dict[str, Any] = json.loads((run_dir / "again.json").read_text())
    assert again["perplexity"] == pytest.approx(figures["perplexity"])


def test_tokens_and_prior_know_each_size(run_dir: Path, workplace: Workplace, tmp_path: Path) -> None:
    tokens, prior = tmp_path / "tokens", tmp_path / "prior"
    data = str(workplace.folder / "images.npy")
    assert main(["encode", str(run_dir), "--data", data, "--out", str(tokens), "--quiet"]) == 0
    spec = read_manifest(tokens).indices
    assert (spec.codebook_size, spec.sizes) == (16, SIZES)
    found = statistics(tokens)
    assert [level.codebook_size for level in found.levels] == [16, 4]
    assert found.fixed_bits_per_image == 4 * (4 + 2)
    argv = ["prior", "fit", str(tokens), "--out", str(prior), "--trainer.max_steps", "2", "--logger", "none"]
    assert main([*argv, "--trainer.accelerator", "cpu", "--data.batch_size", "8"]) == 0
    images = tmp_path / "images"
    argv = ["sample", str(prior), str(run_dir), "--n", "64", "--out", str(images), "--top_p", "1"]
    assert main(argv) == 0
    manifest = json.loads((tokens / "manifest.json").read_text())
    for wrong in ([16, 4, 4], [8, 4], [0, 16]):
        manifest["indices"]["codebook_size_per_level"] = wrong
        (tokens / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=r"codebooks of|codebook_size_per_level"):
            read_manifest(tokens)


def test_groups_of_levels_are_trained_stored_and_decoded(workplace: Workplace, tmp_path: Path) -> None:
    """Two groups of three levels, of which a training item has two at least, from the options to the pictures."""
    run, tokens, pictures = tmp_path / "run", tmp_path / "tokens", tmp_path / "pictures"
    argv = ["fit", *workplace.small, "--out", str(run), "--trainer.max_steps", "6"]
    argv += ["--model.groups", "2", "--model.codebook_size", "[16, 8, 4]", "--model.beam", "2"]
    assert main([*argv, "--model.level_dropout", "true", "--model.min_levels", "2"]) == 0
    model: Any = load_model(run)
    config = model.quantizer.to_config()
    names = (
        "type",
        "dim",
        "groups",
        "num_quantizers",
        "codebook_size",
        "level_dropout",
        "min_levels",
        "beam",
    )
    assert [config[name] for name in names] == ["GroupedGMVQ", 4, 2, 3, [16, 8, 4], True, 2, 2]
    assert {"--model.groups=2", "--model.codebook_size=[16, 8, 4]", "--model.min_levels=2"} <= {
        *options_of(run)
    }
    parser = build_parser()
    again: Any = build_run(parser, parse_options(parser, ["--config", str(run / "config.yaml")]))[0].model
    assert again.quantizer.to_config() == config

    data = workplace.folder / "images.npy"
    assert main(["encode", str(run), "--data", str(data), "--out", str(tokens), "--quiet"]) == 0
    spec = read_manifest(tokens).indices
    assert (spec.shape, spec.levels, spec.sizes) == ((2, 2, 6), 6, (16, 16, 8, 8, 4, 4))
    rows = TokenDataset(tokens).rows(np.arange(3))
    stored, images = rows["indices"], torch.from_numpy(np.load(data)[rows["id"]]).movedim(-1, 1) / 255
    assert torch.equal(stored, model.encode(images))
    assert main(["decode", str(tokens), "--out", str(pictures), "--limit", "3", "--quiet"]) == 0
    decoded = np.stack([np.asarray(Image.open(file)) for file in sorted(pictures.glob("*.png"))])
    expected = model.decode(stored).clamp(0, 1).movedim(1, -1).numpy()
    assert np.abs(decoded / 255 - expected).max() < 0.003


def test_what_cannot_have_sizes_says_so() -> None:
    assert TokenizerModule(codebook_size=[8]).model.quantizer.codebook_size == 8
    pyramid: Any = TokenizerModule(codebook_size=[8, 4], scales=2).model.quantizer
    assert pyramid.codebook_sizes == (8, 4)
    with pytest.raises(ValueError, match=r"ragged needs blocks.* of one codebook_size"):
        TokenizerModule(codebook_size=[8, 4], ragged=True, scales=2)
    for more in ({"groups": 2}, {"num_quantizers": 2}):
        with pytest.raises(ValueError, match="scales have no levels and no groups"):
            TokenizerModule(scales=2, **more)
    with pytest.raises(ValueError, match="min_levels=2 needs level_dropout=True"):
        TokenizerModule(num_quantizers=3, min_levels=2)
    with pytest.raises(ValueError, match="has the sizes of 2 levels"):
        TokenizerModule(codebook_size=[8, 4], num_quantizers=3)


def test_a_list_without_brackets_is_told_how_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.codebook_size", "16,4"]) == 2
    assert "expected one of int, a list such as [256, 64]; got 16,4" in capsys.readouterr().err

"""Tokens of ragged codes: what shards hold, what comes back, what is counted and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gmvq import RaggedGMVQ, VQAutoencoder, build_autoencoder
from gmvq.cli.main import main
from gmvq.quantizers.leaves import tree_bits
from gmvq.tokens import (
    DataRecipe,
    TokenDataset,
    TokenStream,
    decode_tokens,
    encode_dataset,
    read_manifest,
    statistics,
    verify,
)
from gmvq.tokens.shard import read_columns

K, SPENDING = 16, {"budget": 9}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Of one colour, or noise of 4 x 4 pixels in a part that grows with the number of the image."""
    random = np.random.default_rng(0)
    flat = random.integers(0, 255, (24, 1, 1, 3))
    noise = np.kron(random.integers(0, 255, (24, 5, 6, 3)), np.ones((1, 4, 4, 1)))
    rows = np.arange(20).reshape(1, -1, 1, 1) < np.arange(24).reshape(-1, 1, 1, 1)
    return np.where(rows, noise[:, :, :20], flat)[:, :20, :20].astype(np.uint8)


@pytest.fixture(scope="module")
def model(images: np.ndarray) -> VQAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build_autoencoder("tiny", quantizer=RaggedGMVQ(4, K)).eval()
        x = torch.from_numpy(images).movedim(-1, 1).float() / 255
        with torch.no_grad():
            model.quantizer.init_codebook(model._latents(x))  # pyright: ignore
    return model


@pytest.fixture(scope="module")
def recipe(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> DataRecipe:
    file = tmp_path_factory.mktemp("ragged") / "images.npz"
    np.savez(file, x_train=images[:16], x_test=images[16:])
    return DataRecipe(str(file), size=20)


@pytest.fixture(scope="module")
def tokens(model: VQAutoencoder, recipe: DataRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "ragged"
    encode_dataset(model, recipe, out, batch_size=5, rows_per_shard=10, **SPENDING)
    return out


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).movedim(-1, 1).float() / 255


def test_a_row_holds_the_codes_of_its_leaves(tokens: Path, model: VQAutoencoder, images: np.ndarray) -> None:
    table = pq.read_table(tokens / "train-00000-of-00002.parquet")
    wanted = model.encode(pixels(images[:10]), **SPENDING)
    lengths = [len(row) for row in table["indices"].to_pylist()]
    assert lengths == model.quantizer.code_counts(wanted).tolist()  # pyright: ignore
    assert min(lengths) == 4 < max(lengths) <= 9
    assert {len(row) for row in table["divided"].to_pylist()} == {2 * 2 + 3 * 3}
    entries = json.loads((tokens / "manifest.json").read_text())
    assert entries["indices"]["scales"] == 3
    assert entries["options"]["budget"] == 9


def test_what_is_read_is_the_models_grid(tokens: Path, model: VQAutoencoder, images: np.ndarray) -> None:
    wanted = model.encode(pixels(images), **SPENDING)
    dataset = TokenDataset(tokens)
    assert torch.equal(dataset.rows(np.arange(24))["indices"], wanted)
    stream = sorted(TokenStream(tokens, even=False), key=lambda item: item["id"])
    assert torch.equal(torch.stack([item["indices"] for item in stream]), wanted)
    assert verify(tokens).problems == []


def test_decoding_is_reconstruct_with_the_same_budget(
    tokens: Path, model: VQAutoencoder, images: np.ndarray
) -> None:
    for batch in decode_tokens(tokens, model):
        x = pixels(images[batch.ids])
        assert torch.equal(batch.images, model.reconstruct(x, **SPENDING))
        with torch.no_grad():
            assert torch.equal(batch.images, model(x, **SPENDING).reconstruction)


def test_statistics_count_codes_and_tree(tokens: Path, model: VQAutoencoder, images: np.ndarray) -> None:
    found, indices = statistics(tokens), model.encode(pixels(images), **SPENDING)
    counts = model.quantizer.code_counts(indices).double()  # pyright: ignore
    tree = tree_bits(indices, 3).double()
    assert found.codes_per_image == pytest.approx(float(counts.mean()))
    assert found.tree_bits_per_image == pytest.approx(float(tree.mean()))
    assert found.fixed_bits_per_image == pytest.approx(float((counts * math.log2(K) + tree).mean()))
    assert int(found.levels[0].histogram.sum()) == int(counts.sum())


def test_log_variances_are_those_of_the_positions(
    model: VQAutoencoder, recipe: DataRecipe, images: np.ndarray, tmp_path: Path
) -> None:
    encode_dataset(model, recipe, tmp_path, log_variance=True, distortion=0.5)
    _, wanted = model.encode(pixels(images), return_log_variance=True, distortion=0.5)
    rows = TokenDataset(tmp_path, log_variance=True).rows(np.arange(24))
    torch.testing.assert_close(rows["log_variance"], wanted)
    assert statistics(tmp_path).mean_log_variance == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_another_budget_is_another_run(
    tokens: Path, model: VQAutoencoder, recipe: DataRecipe, tmp_path: Path
) -> None:
    folder = shutil.copytree(tokens, tmp_path / "copy")
    again = {"batch_size": 5, "rows_per_shard": 10}
    assert encode_dataset(model, recipe, folder, **again, **SPENDING).encoded == 0
    for spending in ({}, {"budget": 10}, {"distortion": 1.0}):
        with pytest.raises(ValueError, match="--budget or --distortion"):
            encode_dataset(model, recipe, folder, **again, **spending)


def test_a_budget_needs_ragged_codes(recipe: DataRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a code for each position; train a RaggedGMVQ"):
        encode_dataset(build_autoencoder("tiny", codebook_size=K), recipe, tmp_path, budget=9)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("column", ["indices", "divided"])
def test_trees_that_do_not_fit_are_refused(tokens: Path, column: str) -> None:
    manifest = read_manifest(tokens)
    file = tokens / "train-00000-of-00002.parquet"
    table: Any = pq.read_table(file)
    number = table.schema.get_field_index(column)
    backwards = table[column].take(pa.array(range(len(table))[::-1]))
    sink: Any = pa.BufferOutputStream()
    pq.write_table(table.set_column(number, table.schema.field(number), backwards), sink)
    with pytest.raises(ValueError, match="more or fewer codes than its blocks"):
        read_columns(sink.getvalue().to_pybytes(), manifest.indices, "train", "a shard")


@pytest.mark.parametrize("change", [{"scales": 0}, {"scales": 65}, {"scales": 3, "pyramid": True}])
def test_manifests_of_impossible_blocks_are_refused(
    tokens: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    entries = json.loads((tokens / "manifest.json").read_text())
    entries["indices"] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"scales|blocks of 3 sizes"):
        read_manifest(tmp_path)


def test_evaluate_and_reconstruct_spend_as_encode_does(
    tokens: Path,
    model: VQAutoencoder,
    images: np.ndarray,
    recipe: DataRecipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``gmvq evaluate --budget`` has the figures of the tokens of ``gmvq encode --budget``, and of their images."""
    run = tmp_path / "model"
    model.save_pretrained(run, metadata={"data": {"path": recipe.path, "size": 20}})
    argv = ["evaluate", str(run), "--data", str(recipe.path), "--size", "20"]
    assert main([*argv, "--budget", "9"]) == 0
    said = capsys.readouterr().out
    assert "bits of the tree" in said
    assert "latent positions" not in said  # they are leaves
    found: dict[str, Any] = json.loads(next(tmp_path.glob("metrics*budget9.json")).read_text())
    stored, x = statistics(tokens, split="test"), pixels(images[16:])
    assert found["budget"] == 9
    assert found["positions_per_image"] == stored.codes_per_image
    assert found["tree_bits_per_image"] == stored.tree_bits_per_image
    assert found["bits_per_pixel_fixed"] == pytest.approx(stored.fixed_bits_per_pixel)
    assert found["bits_per_pixel_entropy"] == pytest.approx(stored.bits_per_pixel)
    error = (model.reconstruct(x, **SPENDING).clamp(0, 1) - x).square().mean()
    assert found["mse"] == pytest.approx(float(error), rel=1e-5)
    assert "q(c|x) is of single positions" in found["skipped"]["information"]

    Image.fromarray(images[20]).save(tmp_path / "one.png")
    out = tmp_path / "out"
    argv = ["reconstruct", str(run), str(tmp_path / "one.png"), "--out", str(out)]
    assert main([*argv, "--budget", "4"]) == 0
    wanted = model.reconstruct(pixels(images[20:21]), budget=4).clamp(0, 1)
    got = torch.from_numpy(np.asarray(Image.open(out / "one.png")).copy()).movedim(-1, 0) / 255
    torch.testing.assert_close(got, wanted[0], atol=1 / 255, rtol=0)
    assert not torch.allclose(got, model.reconstruct(pixels(images[20:21]))[0], atol=2 / 255)
    assert main([*argv, "--budget", "4", "--distortion", "1"]) == 2
    assert "not allowed with argument --budget" in capsys.readouterr().err


def test_a_plain_model_has_nothing_to_spend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_autoencoder("tiny", codebook_size=K).save_pretrained(tmp_path / "model")
    for command in (["evaluate"], ["reconstruct", "--out", str(tmp_path / "out")]):
        files = [str(tmp_path)] if command[0] == "reconstruct" else []
        assert main([command[0], str(tmp_path / "model"), *files, *command[1:], "--distortion", "1"]) == 2
        assert "GaussianMixtureVQ has a code for each position" in capsys.readouterr().err

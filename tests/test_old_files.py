"""Files written by release 0.1 load: tokens, a model folder, a checkpoint, a prior, compressed tokens, export.json."""

from __future__ import annotations

import json
import math
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

FILES = Path(__file__).parent / "data" / "release_0_1.tar.xz"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(FILES) as archive:
        archive.extractall(folder, filter="data")
    return folder / "release_0_1"


@pytest.fixture(scope="module")
def expected(release: Path) -> dict[str, Any]:
    return json.loads((release / "expected.json").read_text())


def test_tokens(release: Path, expected: dict[str, Any]) -> None:
    from gmvq.tokens import TokenDataset, decode_tokens, read_manifest, statistics, verify

    folder = release / "tokens"
    assert verify(folder).problems == []
    manifest = read_manifest(folder)
    assert manifest.fingerprint == expected["run"]
    assert manifest.to_json() == (folder / "manifest.json").read_text()
    rows = TokenDataset(folder, log_variance=True).rows(np.arange(10))
    assert rows["indices"].flatten(1).tolist() == expected["indices"]
    assert rows["label"].tolist() == expected["labels"]
    assert statistics(folder).rows == 10
    images = torch.cat([batch.images for batch in decode_tokens(folder, release / "model")])
    assert_close(images.double().mean((1, 2, 3)).tolist(), expected["image_means"])


def test_a_run_of_tokens_goes_on(release: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    from gmvq.tokens import DataRecipe, TokenDataset, encode_dataset

    folder = tmp_path / "tokens"
    shutil.copytree(release / "tokens", folder, ignore=shutil.ignore_patterns(".cache"))
    kept, lost = folder / "all-00000-of-00003.parquet", folder / "all-00001-of-00003.parquet"
    before = kept.read_bytes()
    lost.unlink()
    recipe = DataRecipe(os.fspath(release / "pictures"), size=16)
    result = encode_dataset(
        release / "model", recipe, folder, batch_size=4, rows_per_shard=4, log_variance=True
    )
    assert result.encoded == 4
    assert kept.read_bytes() == before
    # Log-variances of another processor differ in their last digit, so the hash of a shard's content would, too.
    assert TokenDataset(folder).rows(np.arange(10))["indices"].flatten(1).tolist() == expected["indices"]
    (folder / "manifest.json").unlink()  # the shards alone say whose they are
    again = encode_dataset(
        release / "model", recipe, folder, batch_size=4, rows_per_shard=4, log_variance=True
    )
    assert again.encoded == 0


def test_models(release: Path, expected: dict[str, Any]) -> None:
    from gmvq.models.weights import model_digest
    from gmvq.training.checkpoint import load_model, open_model
    from gmvq.training.parts import likelihood_of

    assert model_digest(load_model(release / "model")) == expected["model"]
    assert model_digest(load_model(release / "run")) == expected["checkpoint"]
    assert open_model(release / "model").notes["metrics"] == {"psnr": 12.5}
    assert open_model(release / "run").notes["step"] == 1
    likelihood = likelihood_of(open_model(release / "model").notes)
    assert likelihood is not None
    assert float(likelihood.log_scale) == -1.5
    assert likelihood_of(open_model(release / "run").notes) is not None


def test_a_prior_and_compressed_tokens(release: Path, expected: dict[str, Any]) -> None:
    from gmvq.prior.coding import payload_bits
    from gmvq.prior.opening import open_prior

    prior, notes = open_prior(release / "prior")
    assert notes["step"] == 2
    indices = torch.tensor(expected["indices"]).view(-1, 4, 4)
    assert_close(prior.nats(indices).tolist(), expected["nats"], rtol=1e-5, atol=0.0)
    bits = payload_bits((release / "tokens.gmvq").read_bytes())
    assert abs(bits - sum(expected["nats"]) / math.log(2)) < 64


def test_the_notes_of_an_export(release: Path) -> None:
    from gmvq.export.files import read_sidecar

    assert read_sidecar(release / "exported")["format"] == "torch-export"

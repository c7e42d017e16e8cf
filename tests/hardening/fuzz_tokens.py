"""Tokens, priors, and the streams that a prior compresses tokens to, damaged; of one codebook and of a pyramid."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fuzz_damage import BYTES, PLACES, TENSORS, damage_json, entries, replace, written
from fuzz_models import small_model
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

# Tokens


@cache
def _token_files(pyramid: bool) -> dict[str, bytes]:
    """The files of a folder of tokens, with the memory-mapped copy."""
    from gmvq import PyramidGMVQ
    from gmvq.models import build_autoencoder
    from gmvq.tokens import TokenDataset, encode_dataset

    torch.manual_seed(0)
    model = (
        build_autoencoder("tiny", channels=1, quantizer=PyramidGMVQ(3, 8, 2)) if pyramid else small_model()
    )
    values = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    if pyramid:
        with torch.no_grad():
            quantizer: Any = model.quantizer
            quantizer.init_codebook(model.encoder(values).movedim(1, -1))
    with tempfile.TemporaryDirectory() as folder:
        encode_dataset(model.eval(), torch.utils.data.TensorDataset(values), folder, rows_per_shard=8)
        TokenDataset(folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@cache
def _rows(pyramid: bool) -> Any:
    from gmvq.tokens import TokenDataset

    with tempfile.TemporaryDirectory() as folder:
        return TokenDataset(written(Path(folder), _token_files(pyramid)))[7]["indices"]


def run_tokens(case: tuple[bool, str, Any], folder: Path) -> None:
    """Read a folder of tokens of which one file is damaged, by every reader of it."""
    from gmvq.prior import TokenDataModule
    from gmvq.tokens import TokenDataset, statistics, verify

    pyramid, what, damage = case
    files = _token_files(pyramid)
    source = written(folder, files)
    if what == "entries":
        damage_json(source / "manifest.json", damage)
    else:
        name = sorted(files)[damage[0] % len(files)]
        if what == "place":
            replace(source / name, damage[1])
        else:
            (source / name).write_bytes(damage[1](files[name]))
    problems = verify(source).problems
    for use in (statistics, TokenDataset, TokenDataModule):
        with contextlib.suppress(ValueError, OSError) if problems else contextlib.nullcontext():
            use(str(source))
    if not problems:
        assert torch.equal(TokenDataset(source)[7]["indices"], _rows(pyramid)), "accepted, and other tokens"


TOKENS = st.booleans().flatmap(
    lambda pyramid: st.one_of(
        st.tuples(st.just(pyramid), st.just("bytes"), st.tuples(st.integers(0, 7), BYTES)),
        st.tuples(
            st.just(pyramid),
            st.just("entries"),
            st.deferred(lambda: entries(json.loads(_token_files(pyramid)["manifest.json"]))),
        ),
        st.tuples(st.just(pyramid), st.just("place"), st.tuples(st.integers(0, 7), PLACES)),
    )
)

# Priors and the streams that they compress tokens to


@cache
def small_prior(pyramid: bool = False) -> Any:
    """A tiny causal prior of flat images, or of a pyramid."""
    from gmvq.prior import TokenPrior, TokenSpec

    torch.manual_seed(0)
    spec = (
        TokenSpec((2, 2, 2), 8, levels=2, labels=3, pyramid=True)
        if pyramid
        else TokenSpec((2, 3), 8, labels=3)
    )
    return TokenPrior(spec).eval()


def _indices(pyramid: bool) -> Any:
    spec = small_prior(pyramid).spec
    ids = torch.randint(0, 8, (4, spec.length), generator=torch.Generator().manual_seed(2))
    return spec.indices(ids + spec.offsets(ids.device))


@cache
def _prior_files(pyramid: bool) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        small_prior(pyramid).save_pretrained(folder, metadata={"tokens": {"path": "tokens"}, "step": 3})
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def run_prior(case: tuple[bool, str, Any], folder: Path) -> None:
    """Open a damaged prior, draw from it and measure with it."""
    from gmvq.prior.opening import open_prior

    pyramid, what, damage = case
    files = _prior_files(pyramid)
    source = written(folder, files)
    if what == "entries":
        damage_json(source / "config.json", damage)
    elif what == "tensors":
        save_file(damage(load_file(source / "model.safetensors")), source / "model.safetensors")
    elif what == "place":
        replace(source / damage[0], damage[1])
    else:
        (source / what).write_bytes(damage(files[what]))
    prior, _ = open_prior(source)
    drawn = prior.sample(2, seed=0, steps=2)
    assert drawn.shape[1:] == prior.spec.shape
    if prior.kind == "causal" and prior.spec == small_prior(pyramid).spec:
        nats = prior.nats(_indices(pyramid))
        assert torch.allclose(nats, small_prior(pyramid).nats(_indices(pyramid)), rtol=0.1), (
            "accepted, and other nats"
        )


PRIORS = st.booleans().flatmap(
    lambda pyramid: st.one_of(
        st.tuples(st.just(pyramid), st.sampled_from(["config.json", "model.safetensors"]), BYTES),
        st.tuples(
            st.just(pyramid),
            st.just("entries"),
            st.deferred(lambda: entries(json.loads(_prior_files(pyramid)["config.json"]))),
        ),
        st.tuples(
            st.just(pyramid),
            st.just("entries"),
            st.deferred(
                lambda: entries({"prior": json.loads(_prior_files(pyramid)["config.json"])["prior"]})
            ),
        ),
        st.tuples(st.just(pyramid), st.just("tensors"), TENSORS),
        st.tuples(
            st.just(pyramid),
            st.just("place"),
            st.tuples(st.sampled_from(["config.json", "model.safetensors"]), PLACES),
        ),
    )
)


@cache
def _stream(pyramid: bool) -> tuple[dict[str, Any], bytes]:
    """Header and words of compressed tokens."""
    from gmvq.prior.coding import MAGIC, compress

    data = compress(small_prior(pyramid), _indices(pyramid))
    start = len(MAGIC) + 4
    (length,) = struct.unpack("<I", data[len(MAGIC) : start])
    return json.loads(data[start : start + length]), data[start + length :]


def run_stream(case: tuple[bool, Callable[[Any], Any], bool], _: Path) -> None:
    """Decompress damaged bytes: the tokens that were compressed, or an error."""
    from gmvq.prior.coding import MAGIC, decompress, payload_bits

    pyramid, damage, whole = case
    head, words = _stream(pyramid)
    if not whole:
        head = damage(head)
    text = json.dumps(head).encode()
    data = MAGIC + struct.pack("<I", len(text)) + text + words
    data = damage(data) if whole else data
    payload_bits(data)
    assert torch.equal(decompress(small_prior(pyramid), data), _indices(pyramid)), "other tokens"


STREAMS = st.booleans().flatmap(
    lambda pyramid: st.one_of(
        st.tuples(st.just(pyramid), BYTES, st.just(True)),
        st.tuples(st.just(pyramid), st.deferred(lambda: entries(_stream(pyramid)[0])), st.just(False)),
    )
)

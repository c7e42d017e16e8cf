"""Tokens as bytes and back: exact, as short as the likelihood says, and refused where they cannot be decoded."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("constriction", reason="coding needs the extra 'prior'")

from gmvq.prior import TokenSpec, compress, decompress
from gmvq.prior.coding import payload_bits

from .conftest import make_prior


@pytest.mark.parametrize("count", [0, 1, 255, 256, 300])
def test_what_was_compressed_comes_back(count: int) -> None:
    spec = TokenSpec((2, 3), 7, labels=4)
    prior = make_prior(spec)
    indices = prior.sample(max(count, 1), seed=1)[:count]
    labels = torch.arange(count) % 5 - 1
    data = compress(prior, indices, labels)
    assert torch.equal(decompress(prior, data, labels), indices)


def test_levels_come_back() -> None:
    prior = make_prior(TokenSpec((2, 2, 3), 5, levels=3))
    indices = torch.randint(5, (33, 2, 2, 3))
    assert torch.equal(decompress(prior, compress(prior, indices)), indices)


def test_codes_of_no_probability_to_speak_of_come_back() -> None:
    prior = make_prior(TokenSpec((4,), 9), spread=30.0)
    indices = torch.randint(9, (40, 4))
    assert float(prior.nats(indices).max()) > 100
    assert torch.equal(decompress(prior, compress(prior, indices)), indices)


def test_the_bytes_are_as_many_as_the_likelihood_says() -> None:
    prior = make_prior(TokenSpec((4, 4), 32))
    indices = prior.sample(400, seed=2)
    bits = float(prior.nats(indices).double().sum()) / math.log(2)
    assert bits < 0.97 * 400 * 16 * 5, "a flat distribution would prove nothing"
    assert abs(payload_bits(compress(prior, indices)) / bits - 1) < 0.005


def test_what_cannot_be_decoded_is_refused() -> None:
    spec = TokenSpec((3,), 4)
    prior, other = make_prior(spec), make_prior(spec, spread=0.4)
    data = compress(prior, torch.zeros(5, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="made with the prior"):
        decompress(other, data)
    for broken in (b"", b"PNG", data[:20], data[:-1], data[:-4], data[:-1] + b"!"):
        with pytest.raises(ValueError, match="not tokens compressed by gmvq, or are damaged"):
            decompress(prior, broken)
    with pytest.raises(ValueError, match="no exact likelihood"):
        compress(make_prior(spec, "masked"), torch.zeros(5, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"labels must have shape \(5,\)"):
        compress(prior, torch.zeros(5, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"lie in \[0, 3\]"):
        compress(prior, torch.tensor([[0, 0, 0]] * 4 + [[0, 0, 4]]))


def test_other_labels_do_not_pass_for_the_tokens() -> None:
    spec = TokenSpec((3, 3), 16, labels=3)
    prior = make_prior(spec)
    labels = torch.arange(40) % 3
    data = compress(prior, prior.sample(40, labels=labels), labels)
    for wrong in (None, (labels + 1) % 3):
        with pytest.raises(ValueError, match="the tokens do not come back"):
            decompress(prior, data, wrong)


def test_the_number_of_threads_does_not_matter() -> None:
    prior = make_prior(TokenSpec((4, 4), 64))
    indices = torch.randint(64, (70, 4, 4))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.autocast("cpu", torch.bfloat16):
            data = compress(prior, indices)
        torch.set_num_threads(2)
        assert torch.equal(decompress(prior, data), indices)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_single_code_takes_no_bits() -> None:
    prior = make_prior(TokenSpec((3,), 1))
    indices = torch.zeros(10, 3, dtype=torch.long)
    data = compress(prior, indices)
    assert torch.equal(decompress(prior, data), indices)
    assert payload_bits(data) <= 64


@pytest.mark.parametrize(
    ("entry", "value"), [("images", "a"), ("images", -1), ("batch", 0), ("threads", None)]
)
def test_a_damaged_header(entry: str, value: object) -> None:
    import json
    import struct

    prior = make_prior(TokenSpec((3,), 4))
    data = compress(prior, torch.zeros(5, 3, dtype=torch.long))
    (length,) = struct.unpack("<I", data[8:12])
    head = json.dumps({**json.loads(data[12 : 12 + length]), entry: value}).encode()
    with pytest.raises(ValueError, match="are damaged"):
        decompress(prior, data[:8] + struct.pack("<I", len(head)) + head + data[12 + length :])

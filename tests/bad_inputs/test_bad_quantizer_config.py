"""What a user sees when the quantizer of a config.json cannot be built: a table of (call, exception, message)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gmvq import Constant, GaussianMixtureVQ, GumbelSoftmax, Objective, Variance
from gmvq.models import build_networks
from gmvq.quantizers import from_config

Row = tuple[str, Callable[[], Any], type[Exception], str]


def config(**changes: Any) -> dict[str, Any]:
    return {**GaussianMixtureVQ(4, 8).to_config(), **changes}


class Homemade(GumbelSoftmax):
    """An estimator of the user's own: fine in code, but no file could name it."""


CONFIGS: list[Row] = [
    (
        "unknown type",
        lambda: from_config(config(type="FSQ")),
        ValueError,
        r"unknown quantizer type 'FSQ'; known: .*GaussianMixtureVQ",
    ),
    ("no type", lambda: from_config({}), ValueError, r"unknown quantizer type None"),
    (
        "unknown key",
        lambda: from_config(config(rotation=True)),
        ValueError,
        r"GaussianMixtureVQ: .*'rotation'; does the file come from another version of gmvq\?",
    ),
    (
        "missing key",
        lambda: from_config({"type": "GaussianMixtureVQ", "dim": 4}),
        ValueError,
        r"'codebook_size'",
    ),
    (
        "unknown part",
        lambda: from_config(config(estimator={"type": "Rebar"})),
        ValueError,
        r"unknown part 'Rebar'; expected one of .*GumbelSoftmax",
    ),
    (
        "unknown field of a part",
        lambda: from_config(config(variance={"type": "Variance", "tau": 1.0})),
        ValueError,
        r"Variance: .*'tau'; does the file come from another version",
    ),
    ("value out of range", lambda: from_config(config(dim=0)), ValueError, r"dim must be positive"),
    (
        "a part as text",
        lambda: from_config(config(objective="elbo")),
        ValueError,
        r"such as Objective\(",
    ),
    (
        "a part of one's own",
        lambda: GaussianMixtureVQ(4, 8, estimator=Homemade()).to_config(),
        TypeError,
        r"Homemade cannot be written to a config: only the parts of gmvq can .*save the state_dict yourself",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*row[1:], id=row[0]) for row in CONFIGS])
def test_a_mistake_in_a_config_is_named(call, error, message) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"variance": Variance(noise=Constant(-1.0))}, "variance.noise must not be negative, got -1.0"),
        ({"objective": Objective(beta=Constant(-2.0))}, "objective.beta must not be negative, got -2.0"),
    ],
)
def test_negative_schedules_are_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixtureVQ(4, 8, **part)


@pytest.mark.parametrize("size", [16.5, True, "16"])
def test_sizes_are_whole_numbers(size: Any) -> None:
    with pytest.raises(TypeError, match="codebook_size must be a whole number, got"):
        GaussianMixtureVQ(4, size)


def test_eight_bit_images_get_a_hint() -> None:
    encoder, _ = build_networks("tiny", dim=4)
    with pytest.raises(
        TypeError, match=r"values in \[0, 1\], got torch.uint8; 8-bit images: x.float\(\) / 255"
    ):
        encoder(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))

"""What a user sees after a mistake: a table of (call, exception, message)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gmvq import (
    Constant,
    Exponential,
    GaussianMixtureVQ,
    GumbelSoftmax,
    Linear,
    Objective,
    Variance,
)

D, K = 4, 8
Row = tuple[str, Callable[[], Any], type[Exception], str]


def layer(**options: Any) -> GaussianMixtureVQ:
    torch.manual_seed(0)
    return GaussianMixtureVQ(D, K, **options)


def started() -> GaussianMixtureVQ:
    built = layer()
    built.init_codebook(torch.randn(32, D))
    return built


def x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (16, D)))


def spoiled(value: float) -> Tensor:
    latents = x()
    latents[3, 1] = value
    return latents


def any_of(message: str) -> str:
    return f"(?s){message}"


LATENTS: list[Row] = [
    (
        "wrong last axis",
        lambda: layer()(x(2, 5)),
        ValueError,
        r"shape \(\.\.\., 4\): the last axis is the feature axis; got \(2, 5\)$",
    ),
    (
        "channels first",
        lambda: layer()(x(2, D, 6, 7)),
        ValueError,
        r"got \(2, 4, 6, 7\); axis 1 has size 4: move it to the end with latents\.movedim\(1, -1\)",
    ),
    ("a scalar", lambda: layer()(torch.tensor(1.0)), ValueError, r"shape \(\.\.\., 4\).*got \(\)"),
    ("empty batch", lambda: layer()(x(0, D)), ValueError, r"empty, of shape \(0, 4\); pass at least one"),
    (
        "integers",
        lambda: layer()(torch.ones(3, D).int()),
        TypeError,
        r"floating point.*int32.*latents\.float\(\)",
    ),
    ("booleans", lambda: layer()(torch.ones(3, D) > 0), TypeError, r"floating point, got torch\.bool"),
    ("complex", lambda: layer()(x().to(torch.complex64)), TypeError, r"floating point, got torch\.complex64"),
    ("a list", lambda: layer()([[1.0] * D]), TypeError, r"latents must be a torch\.Tensor, got list"),
    ("an array", lambda: layer()(x().numpy()), TypeError, r"latents must be a torch\.Tensor, got ndarray"),
    (
        "NaN",
        lambda: layer()(spoiled(math.nan)),
        ValueError,
        r"hold 1 NaN or infinite values of 64.*learning rate",
    ),
    ("infinity", lambda: layer()(spoiled(-math.inf)), ValueError, r"hold 1 NaN or infinite values of 64"),
    ("NaN in eval", lambda: layer().eval()(spoiled(math.nan)), ValueError, r"1 NaN or infinite"),
    ("NaN in encode", lambda: layer().encode(spoiled(math.nan)), ValueError, r"1 NaN or infinite"),
    ("wrong last axis in encode", lambda: layer().encode(x(2, 5)), ValueError, r"got \(2, 5\)"),
    ("NaN at the start", lambda: layer().init_codebook(spoiled(math.nan)), ValueError, r"1 NaN or infinite"),
    (
        "channels first at the start",
        lambda: layer().init_codebook(x(2, D, 3)),
        ValueError,
        r"movedim\(1, -1\)",
    ),
]

MASKS: list[Row] = [
    (
        "mask of the latents' shape",
        lambda: started()(x(2, 6, D), torch.ones(2, 6, D) > 0),
        ValueError,
        r"mask must have the latents' leading shape \(2, 6\), got \(2, 6, 4\)",
    ),
    (
        "transposed mask",
        lambda: started()(x(2, 6, D), torch.ones(6, 2) > 0),
        ValueError,
        r"\(2, 6\), got \(6, 2\)",
    ),
    (
        "mask in encode",
        lambda: started().encode(x(2, D), torch.ones(3) > 0),
        ValueError,
        r"\(2,\), got \(3,\)",
    ),
    (
        "float mask",
        lambda: started()(x(2, D), torch.ones(2)),
        TypeError,
        r"boolean tensor \(True = valid.*float32",
    ),
    ("a list as mask", lambda: started()(x(2, D), [True, False]), TypeError, r"boolean tensor.*got list"),
]

INDICES: list[Row] = [
    (
        "index too large",
        lambda: started().get_codes_from_indices(torch.tensor([0, K])),
        ValueError,
        r"indices must lie in \[0, 7\] \(or be -1 where masked\), got values from 0 to 8; .*another codebook size",
    ),
    (
        "index too small",
        lambda: started().get_codes_from_indices(torch.tensor([-2, 3])),
        ValueError,
        r"from -2 to 3",
    ),
    (
        "float indices",
        lambda: started().get_codes_from_indices(torch.tensor([1.0])),
        TypeError,
        r"indices must be integers, got torch\.float32; convert them with indices\.long\(\)",
    ),
    (
        "boolean indices",
        lambda: started().get_codes_from_indices(torch.tensor([True])),
        TypeError,
        r"torch\.bool",
    ),
    ("a list", lambda: started().get_codes_from_indices([1, 2]), TypeError, r"torch\.Tensor, got list"),
]

ARGUMENTS: list[Row] = [
    ("dim 0", lambda: GaussianMixtureVQ(0, K), ValueError, r"^dim must be positive, got 0"),
    ("negative dim", lambda: GaussianMixtureVQ(-3, K), ValueError, r"^dim must be positive, got -3"),
    ("no codes", lambda: GaussianMixtureVQ(D, 0), ValueError, r"^codebook_size must be positive, got 0"),
    (
        "unknown objective",
        lambda: Objective("vae"),
        ValueError,
        r"Objective\.kind must be one of 'albo', 'elbo', 'literal', got 'vae'",
    ),
    ("sigma 0", lambda: Variance(sigma=0.0), ValueError, r"Variance\.sigma must be positive, got 0\.0"),
    (
        "objective by name",
        lambda: layer(objective="elbo"),
        TypeError,
        r"objective.*such as Objective\(.*'elbo'",
    ),
    ("variance by name", lambda: layer(variance="none"), TypeError, r"variance.*such as Variance\(.*'none'"),
    (
        "precision as a number",
        lambda: layer(precision=2.0),
        TypeError,
        r"precision.*such as Precision\(.*2\.0",
    ),
    (
        "estimator by name",
        lambda: layer(estimator="gumbel"),
        TypeError,
        r"estimator.*GumbelSoftmax\(.*'gumbel'",
    ),
    (
        "estimator as a class",
        lambda: layer(estimator=GumbelSoftmax),
        TypeError,
        r"estimator.*GumbelSoftmax\(.*class",
    ),
    ("another part", lambda: layer(estimator=Variance()), TypeError, r"estimator.*got Variance\("),
    ("unknown weights", lambda: layer(mixture_weights="pi"), ValueError, r"'uniform', 'learned', got 'pi'"),
    (
        "unknown units",
        lambda: layer(units="pixels"),
        ValueError,
        r"units must be one of 'latents', 'standardized', got 'pixels'",
    ),
    (
        "negative wait",
        lambda: layer(start_after=-1),
        ValueError,
        r"start_after is a number of batches, 0 or more, got -1",
    ),
    (
        "negative commitment",
        lambda: Objective(commitment=-0.1),
        ValueError,
        r"Objective\.commitment must not be negative, got -0\.1",
    ),
    (
        "a number for a schedule",
        lambda: layer(objective=Objective(beta=3.0)),
        TypeError,
        r"objective\.beta must be a schedule, got 3\.0; a fixed value is Constant\(3\.0\)",
    ),
    (
        "temperature 0",
        lambda: layer(estimator=GumbelSoftmax(Constant(0.0))),
        ValueError,
        r"estimator\.temperature must be positive, got 0\.0",
    ),
    (
        "temperature ends at 0",
        lambda: layer(estimator=GumbelSoftmax(Linear(1.0, 0.0))),
        ValueError,
        r"estimator\.temperature at progress 1 must be positive, got 0\.0",
    ),
    (
        "exponential to 0",
        lambda: Exponential(1.0, 0.0),
        ValueError,
        r"positive ends, got start=1\.0, end=0\.0",
    ),
    (
        "ramp turned round",
        lambda: Linear(0, 1, begin=0.6, finish=0.2),
        ValueError,
        r"begin < finish.*0\.6.*0\.2",
    ),
    (
        "progress beyond 1",
        lambda: layer().set_progress(1.5),
        ValueError,
        r"fraction of training done, 0 to 1, got 1\.5",
    ),
    ("progress below 0", lambda: layer().set_progress(-0.1), ValueError, r"0 to 1, got -0\.1"),
    ("progress NaN", lambda: layer().set_progress(math.nan), ValueError, r"0 to 1, got nan"),
]


ROWS = [*LATENTS, *MASKS, *INDICES, *ARGUMENTS]


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_a_mistake_is_named(call, error, message) -> None:
    with pytest.raises(error, match=any_of(message)):
        call()


def test_a_mistake_changes_nothing() -> None:
    built = layer()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    for bad in (x(2, 5), spoiled(math.nan), x(0, D)):
        with pytest.raises(ValueError):
            built(bad)
    with pytest.raises(ValueError):
        built.set_progress(2.0)
    for name, value in built.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "start", [lambda built, rows: built(rows), lambda built, rows: built.init_codebook(rows)]
)
def test_a_first_batch_smaller_than_the_codebook_warns(start) -> None:
    expected = r"holds 5 latent vectors for 8 codes: 3 codes start at random points.*init_codebook\(latents\)"
    built = layer()
    with pytest.warns(UserWarning, match=any_of(expected)):
        start(built, x(5, D))
    assert torch.isfinite(built.codebook).all()
    assert built.started

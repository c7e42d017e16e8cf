"""Entropies and information of q(c|x): the decomposition, limits, streaming, merging, masks."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.functional.divergences import categorical_kl
from gmvq.objectives import AggregatePosterior, aggregate_entropy, conditional_entropy, information


def log_posteriors(*shape: int, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3.0 * logits).log_softmax(-1)


def test_mean_kl_is_information_plus_aggregate_kl() -> None:
    log_q, log_pi = log_posteriors(50, 4, 3), log_posteriors(3, seed=1)
    mean_kl = categorical_kl(log_q.exp(), log_pi).mean()
    kl_aggregate = categorical_kl(log_q.exp().mean((0, 1)), log_pi)
    torch.testing.assert_close(mean_kl, information(log_q) + kl_aggregate)


def test_entropies_equal_those_of_torch() -> None:
    log_q = log_posteriors(7, 5)
    expected = torch.distributions.Categorical(logits=log_q).entropy().mean()
    torch.testing.assert_close(conditional_entropy(log_q), expected)
    mean = torch.distributions.Categorical(probs=log_q.exp().mean(0))
    torch.testing.assert_close(aggregate_entropy(log_q), mean.entropy())


def test_limits_of_information() -> None:
    one_hot = torch.eye(4, dtype=torch.float64).log()
    torch.testing.assert_close(information(one_hot), torch.tensor(math.log(4), dtype=torch.float64))
    same = log_posteriors(1, 4).expand(9, 4)
    torch.testing.assert_close(information(same), torch.zeros((), dtype=torch.float64))
    single_code = torch.zeros(6, 1, dtype=torch.float64)
    torch.testing.assert_close(information(single_code), torch.zeros((), dtype=torch.float64))


def test_information_is_underestimated_on_small_batches() -> None:
    log_q = log_posteriors(400, 8)
    parts = torch.stack([information(part) for part in log_q.split(10)]).mean()
    assert parts < information(log_q)


def test_streaming_merging_and_masks_equal_one_batch() -> None:
    log_q, log_pi = log_posteriors(30, 2, 5), log_posteriors(5, seed=2)
    left, right = AggregatePosterior(5), AggregatePosterior(5)
    left.update(log_q[:7])
    left.update(log_q[7:11])
    garbage = torch.cat([log_q[11:], log_posteriors(19, 3, 5, seed=3)], 1)
    mask = torch.tensor([True, True, False, False, False]).expand(19, 5)
    right.update(garbage, mask)
    merged = left.merge(right)
    assert merged is left
    assert merged.count == 60
    torch.testing.assert_close(merged.aggregate_entropy, aggregate_entropy(log_q))
    torch.testing.assert_close(merged.conditional_entropy, conditional_entropy(log_q))
    torch.testing.assert_close(merged.information, information(log_q))
    torch.testing.assert_close(merged.probabilities, log_q.exp().mean((0, 1)))
    torch.testing.assert_close(merged.kl(log_pi), categorical_kl(log_q.exp().mean((0, 1)), log_pi))
    torch.testing.assert_close(merged.kl(), math.log(5) - aggregate_entropy(log_q))
    torch.testing.assert_close(merged.all_reduce().information, information(log_q))


def test_half_precision_rows_are_summed_in_float64() -> None:
    aggregate = AggregatePosterior(2)
    row = torch.tensor([[0.25, 0.75]]).log().bfloat16()
    for _ in range(600):
        aggregate.update(row)
    assert aggregate.sums.dtype == torch.float64
    torch.testing.assert_close(aggregate.probabilities, row.float().exp()[0].double())


def test_bad_input_is_refused() -> None:
    aggregate = AggregatePosterior(3)
    with pytest.raises(ValueError, match="no rows"):
        _ = aggregate.information
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        aggregate.update(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="mask must be a boolean tensor"):
        aggregate.update(torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match="cannot merge"):
        aggregate.merge(AggregatePosterior(4))
    with pytest.raises(ValueError, match="codebook_size must be positive"):
        AggregatePosterior(0)

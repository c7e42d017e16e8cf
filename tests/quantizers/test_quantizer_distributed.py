"""Two processes equal one on the concatenated batch: start, terms, gradients; uneven rows and masks too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from quantizer_cases import assert_same, latents, layer
from two_ranks import (
    CASES,
    COMPOSITIONS,
    MASK,
    MASKS,
    ROWS,
    SPLIT,
    WORLD,
    composition,
    several,
    starts,
    steps,
    waiting,
    work,
    wrapped,
)

from gmvq.functional.distributed import all_reduce_sum, gather_rows, world_size

pytestmark = [
    pytest.mark.xdist_group("two ranks"),  # one spawn, on one worker
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo backend"
    ),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone() -> dict[Any, Any]:
    """The same steps by one process on the whole batch."""
    return steps(slice(None), 1)


@pytest.mark.parametrize(
    "start", ["lazy", "masked", "one rank empty", "explicit", "resized to 2", "resized to 6", "given"]
)
def test_start_is_that_of_the_whole_batch_and_bit_equal_on_both_ranks(ranks, start) -> None:
    first, second = (rank["starts"][start] for rank in ranks)
    assert_same(second, first, rtol=0.0, atol=0.0)
    assert_same(first, starts(slice(None))[start])
    assert first["codebook"].any()


def averaged(results: list[dict[str, Any]], key: str) -> dict[str, torch.Tensor]:
    """Mean over ranks, as data-parallel training averages gradients; a parameter without one counts as zero."""
    names = {name for result in results for name in result[key]}
    found = {name: [result[key][name] for result in results if name in result[key]] for name in names}
    return {name: torch.stack(values).sum(0) / len(results) for name, values in found.items()}


@pytest.mark.parametrize("mask", MASKS)
def test_latents_before_the_start_are_held_as_by_one_process(ranks, mask) -> None:
    whole = waiting(slice(None), 1)[mask]
    torch.testing.assert_close(torch.cat([rank["waiting"][mask] for rank in ranks]), whole)
    x = latents(ROWS)
    error = 9.0 * x - (9.0 * x).sin()
    assert not torch.allclose(whole, whole.norm() / error.norm() * error)  # pulled


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("nats", [True, False])
def test_step_equals_that_of_one_process(ranks, alone, case, mask, nats) -> None:
    results, whole = [rank["steps"][case, mask, nats] for rank in ranks], alone[case, mask, nats]
    assert_same(averaged(results, "grads"), whole["grads"])
    torch.testing.assert_close(torch.cat([result["latents"] for result in results]), whole["latents"])
    torch.testing.assert_close(torch.cat([result["quantized"] for result in results]), whole["quantized"])
    assert torch.equal(torch.cat([result["indices"] for result in results]), whole["indices"])
    assert_same(averaged(results, "terms"), whole["terms"])
    torch.testing.assert_close(sum(result["nats"] for result in results) / WORLD, whole["nats"])


def test_what_is_learned_over_several_steps_is_that_of_one_process(ranks) -> None:
    whole = several(slice(None), 1)
    for case in CASES:
        first, second = (rank["several"][case] for rank in ranks)
        assert_same(second, first, rtol=0.0, atol=0.0)
        assert_same(first, whole[case])


@pytest.mark.parametrize("name", ["kl_aggregate", "aggregate_entropy", "perplexity", "usage"])
def test_codebook_statistics_are_global_on_every_rank(ranks, alone, name) -> None:
    for rank in ranks:
        value = rank["steps"]["albo", "some", True]["terms"][name]
        torch.testing.assert_close(value, alone["albo", "some", True]["terms"][name])


def test_data_parallel_wrapper_trains_as_one_process(ranks) -> None:
    results, whole = [rank["wrapped"] for rank in ranks], wrapped(slice(None), 1)
    for result in results:
        assert_same(result["grads"], whole["grads"])
    assert_same(averaged(results, "terms"), whole["terms"])
    torch.testing.assert_close(torch.cat([result["latents"] for result in results]), whole["latents"])


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_step_of_a_composition_equals_that_of_one_process(ranks, name) -> None:
    results, whole = [rank[name] for rank in ranks], composition(name, slice(None), 1)
    assert_same(averaged(results, "grads"), whole["grads"])
    assert_same(averaged(results, "terms"), whole["terms"])
    torch.testing.assert_close(torch.cat([result["latents"] for result in results]), whole["latents"])
    torch.testing.assert_close(sum(result["nats"] for result in results) / WORLD, whole["nats"])
    for result in results:
        assert_same(result["state"], whole["state"])


def test_eval_needs_no_other_rank(ranks) -> None:
    """Rank 0 alone ran forward, backward and encode in eval mode: no collective waited for rank 1."""
    result = ranks[0]["alone"]
    assert "alone" not in ranks[1]
    assert torch.equal(result["indices"], result["encoded"])
    assert result["terms"]["perplexity"] > 1


def test_a_rank_that_settles_before_the_others_stays_their_equal() -> None:
    """Rank 0 alone saves; then DistributedDataParallel copies its buffers to rank 1, which has not learned yet."""
    first = layer(codebook_size=16)
    for seed in range(60):
        first(latents(200, seed=seed) + 0.2 * seed)  # codes are left behind and born again
        second = copy.deepcopy(first)
        first.state_dict()
        for own, sent in zip(second.buffers(), first.buffers(), strict=True):
            own.copy_(sent)
        assert_same(second.state_dict(), first.state_dict(), rtol=0.0, atol=0.0)


def test_replicas_of_data_parallel_evaluate_and_say_what_they_lose() -> None:
    built, x = layer(), latents()
    expected = copy.deepcopy(built).eval()(x).quantized

    def replica() -> Any:
        """As ``torch.nn.parallel.replicate`` makes it on each device."""
        made: Any = built._replicate_for_data_parallel()
        for name, parameter in built.named_parameters():
            setattr(made, name, parameter * 1.0 if parameter.requires_grad else parameter)
        return made

    with pytest.warns(UserWarning, match="DistributedDataParallel"):
        assert (replica()(x).indices >= 0).all()
    torch.testing.assert_close(replica().eval()(x).quantized, expected, rtol=0.0, atol=0.0)
    built.requires_grad_(False)
    assert (replica()(x).indices >= 0).all()


def test_without_a_process_group_nothing_is_reduced() -> None:
    x = latents()
    assert world_size() == 1
    assert all_reduce_sum(x) is x
    assert gather_rows(x) is x
    assert layer()(x).nats.isfinite()
    assert sum(part.stop - part.start for part in SPLIT) == ROWS == len(MASK)

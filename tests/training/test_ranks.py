"""N processes train as one: torchrun on one host and on two, uneven last batches, compositions, accumulation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = str(Path(__file__).with_name("ranks.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
Train = Callable[..., dict[str, Any]]

pytestmark = [
    pytest.mark.xdist_group("ranks"),
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch has no gloo backend",
    ),
]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def agents(ranks: int, hosts: int) -> list[list[str]]:
    """The torchrun commands, one for each host."""
    if ranks == 1:
        return [[sys.executable]]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks // hosts)]
    if hosts == 1:
        return [[*run, "--standalone"]]
    run += ["--nnodes", str(hosts), "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [[*run, "--node_rank", str(host)] for host in range(hosts)]


@pytest.fixture(scope="module")
def train(images: str, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Twenty optimizer steps without noise: losses and last state. One process runs once for a configuration."""
    known: dict[Any, dict[str, Any]] = {}

    def run(ranks: int, *, hosts: int = 1, per_step: int = 12, **options: Any) -> dict[str, Any]:
        key = (ranks, hosts, per_step, *sorted(options.items()))
        if key in known:
            return known[key]
        out = tmp_path_factory.mktemp("ranks") / "out.json"
        arguments = [SCRIPT, images, str(per_step), str(out)]
        arguments += [f"{name}={json.dumps(value)}" for name, value in options.items()]
        started = [
            subprocess.Popen(
                [*agent, *arguments],
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for agent in agents(ranks, hosts)
        ]
        try:
            said = [process.communicate(timeout=200)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        if any(process.returncode for process in started):
            text = "\n".join(said)
            if "gloo" in text.lower() and "unable" in text.lower():
                pytest.skip(f"gloo cannot be used here: {text.splitlines()[-1]}")
            pytest.fail(text)
        known[key] = json.loads(out.read_text())
        assert known[key]["world"] == ranks
        if not {"save", "resume"} & options.keys():
            assert len(known[key]["losses"]) == 20 * options.get("accumulate", 1)
        return known[key]

    return run


def assert_same_training(several: dict[str, Any], one: dict[str, Any]) -> None:
    torch.testing.assert_close(
        torch.tensor(several["losses"]), torch.tensor(one["losses"]), rtol=1e-6, atol=1e-6
    )
    for name, values in one["state"].items():
        torch.testing.assert_close(
            torch.tensor(several["state"][name]), torch.tensor(values), rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_equal_one_process(train: Train, ranks: int) -> None:
    assert_same_training(train(ranks), train(1))


@pytest.mark.parametrize("ranks", [2, 3])
def test_uneven_last_batches(train: Train, ranks: int) -> None:
    """More places than images: the last process gets what is left over."""
    assert_same_training(train(ranks, per_step=36), train(1, per_step=36))


@pytest.mark.parametrize(
    "options",
    [
        {"num_quantizers": 2},
        {"num_quantizers": 2, "shared_codebook": True, "codebook_dim": 2},
        {"groups": 2, "shared_codebook": True},
    ],
    ids=["residual", "residual, shared", "heads"],
)
def test_compositions(train: Train, options: dict[str, Any]) -> None:
    assert_same_training(train(2, **options), train(1, **options))


def test_two_hosts(train: Train) -> None:
    """Two torchrun agents that meet over TCP, each with one process."""
    assert_same_training(train(2, hosts=2), train(1))


def test_accumulated_batches_are_the_same_on_several_processes(train: Train) -> None:
    assert_same_training(train(2, accumulate=2), train(1, accumulate=2))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on(train: Train, tmp_path: Path, before: int, after: int) -> None:
    """With as many images per step, data order, statistics and losses are those of the run that nothing stopped."""
    checkpoint = str(tmp_path / "some.ckpt")
    begun = train(before, save=checkpoint, stop=8)
    assert len(begun["losses"]) == 8
    gone_on = train(after, resume=checkpoint)
    assert len(gone_on["losses"]) == 12
    assert_same_training({**gone_on, "losses": begun["losses"] + gone_on["losses"]}, train(1))

"""N processes train as one: torchrun on one host and on two, uneven last batches, compositions, accumulation."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import CONFIGURATIONS, HALF, KILL, STEPS, STOP, train_all

SCRIPT = str(Path(__file__).with_name("ranks.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

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
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks // hosts)]
    if hosts == 1:
        return [[*run, "--standalone"]]
    run += ["--nnodes", str(hosts), "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [[*run, "--node_rank", str(host)] for host in range(hosts)]


def run(images: str, out: Path, names: list[str], ranks: int, hosts: int = 1) -> tuple[list[int], str]:
    """Start torchrun; return the exit codes of its agents and what was said."""
    started = [
        subprocess.Popen(
            [*agent, SCRIPT, images, str(out), *names],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for agent in agents(ranks, hosts)
    ]
    try:
        said = [process.communicate(timeout=250)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    text = "\n".join(said)
    if any(process.returncode for process in started) and "gloo" in text.lower() and "unable" in text.lower():
        pytest.skip(f"gloo cannot be used here: {text.splitlines()[-1]}")
    return [process.returncode for process in started], text


def launch(images: str, out: Path, names: list[str], ranks: int, hosts: int = 1) -> dict[str, dict[str, Any]]:
    """Some configurations in one start of torchrun."""
    codes, text = run(images, out, names, ranks, hosts)
    if any(codes):
        pytest.fail(text)
    results = json.loads(out.read_text())
    assert {result["world"] for result in results.values()} == {ranks}
    return results


#: A run that is stopped, with whole networks and with divided ones.
WAYS = ("", "sharded ")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs on one process and on two leave the checkpoints that the others go on from."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def one(images: str, checkpoints: Path) -> dict[str, dict[str, Any]]:
    """Every configuration on one process."""
    return train_all(
        images, [*CONFIGURATIONS, *HALF, *(f"{how}stop={checkpoints / f'{how}1.ckpt'}" for how in WAYS)]
    )


@pytest.fixture(scope="module")
def two(
    images: str, one: dict[str, dict[str, Any]], checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Every configuration on two processes, and what one process began."""
    names = [
        *CONFIGURATIONS,
        *HALF,
        *(f"{how}stop={checkpoints / f'{how}2.ckpt'}" for how in WAYS),
        *(f"{how}resume={checkpoints / f'{how}1.ckpt'}" for how in WAYS),
    ]
    return launch(images, tmp_path_factory.mktemp("two") / "out.json", names, 2)


def assert_same_training(several: dict[str, Any], one: dict[str, Any]) -> None:
    torch.testing.assert_close(
        torch.tensor(several["losses"]), torch.tensor(one["losses"]), rtol=1e-6, atol=1e-6
    )
    for name, values in one["state"].items():
        torch.testing.assert_close(
            torch.tensor(several["state"][name]), torch.tensor(values), rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_two_processes_train_as_one(
    one: dict[str, dict[str, Any]], two: dict[str, dict[str, Any]], name: str
) -> None:
    assert len(one[name]["losses"]) == STEPS * CONFIGURATIONS[name].get("accumulate", 1)
    assert_same_training(two[name], one[name])


@pytest.mark.parametrize("name", HALF)
def test_two_processes_train_as_one_in_half_precision(
    one: dict[str, dict[str, Any]], two: dict[str, dict[str, Any]], name: str
) -> None:
    """To two roundings of bfloat16, 2^-8 each: of losses that begin near 0.2, and of the weights on the whole."""
    losses = [torch.tensor(result[name]["losses"]) for result in (two, one)]
    torch.testing.assert_close(*losses, rtol=0.0, atol=2**-7 * 0.2)
    states = [
        torch.tensor([value for values in result[name]["state"].values() for value in values])
        for result in (two, one)
    ]
    assert (states[0] - states[1]).norm() < 2**-7 * states[1].norm()
    assert one[name]["losses"] != pytest.approx(one["plain"]["losses"], rel=1e-5), "in double precision"


def test_two_hosts(images: str, one: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Two torchrun agents that meet over TCP, each with two processes."""
    names = ["plain", "uneven"]
    four = launch(images, tmp_path / "out.json", names, 4, hosts=2)
    for name in names:
        assert_same_training(four[name], one[name])


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("how", WAYS)
def test_another_number_of_processes_goes_on(
    images: str,
    one: dict[str, dict[str, Any]],
    two: dict[str, dict[str, Any]],
    checkpoints: Path,
    before: int,
    how: str,
) -> None:
    """With as many images per step, data order, statistics and losses are those of the run that nothing stopped."""
    resume = f"{how}resume"
    begun = (one if before == 1 else two)[f"{how}stop"]
    rest = (
        two[resume]
        if before == 1
        else train_all(images, [f"{resume}={checkpoints / f'{how}2.ckpt'}"])[resume]
    )
    assert len(begun["losses"]) == STOP
    whole = {**rest, "losses": begun["losses"] + rest["losses"]}
    assert len(whole["losses"]) == STEPS
    assert_same_training(whole, one["plain"])


def test_compiled_and_eager_are_one_training(one: dict[str, dict[str, Any]]) -> None:
    assert_same_training(one["compiled"], one["plain"])
    assert (one["compiled"]["compiled"], one["plain"]["compiled"]) == (True, False)


def test_the_average_is_another_end_of_the_same_training(one: dict[str, dict[str, Any]]) -> None:
    assert one["averaged"]["losses"] == one["plain"]["losses"]
    assert one["averaged"]["state"] != one["plain"]["state"]


def test_the_networks_are_divided(two: dict[str, dict[str, Any]]) -> None:
    """And whole again when training is over: their state has as many numbers as that of one process."""
    assert two["plain"]["divided"] == 0
    assert two["sharded"]["divided"] > 10


def encoded(pixels: np.ndarray) -> bytes:
    """A picture as PNG."""
    pil = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    buffer = io.BytesIO()
    pil.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_two_processes_share_a_stream(images: str, tmp_path: Path) -> None:
    """Parquet read in place: in an epoch of three steps every image once, on one process or the other."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": encoded(pixels), "path": None} for pixels in np.load(images)]
    for split, part in (("train", cells[:36]), ("validation", cells[36:38]), ("test", cells[38:])):
        file = tmp_path / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pa.table({"image": part}), file, row_group_size=3)
    place = f"stream:{tmp_path}"
    two = launch(place, tmp_path / "out.json", ["plain"], 2)["plain"]
    one = train_all(place, ["plain"])["plain"]
    assert_same_training(two, one)
    assert two["seen"] == one["seen"]
    for epoch in range(0, STEPS, 3):
        seen = [value for step in two["seen"][epoch : epoch + 3] for value in step]
        assert (len(seen), len(set(seen))) == (36, 36)


@pytest.fixture
def shards(images: str, tmp_path: Path) -> str:
    """The same images in four WebDataset shards."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for part, pictures in enumerate(np.split(np.load(images), 4)):
        with tarfile.open(folder / f"{part}.tar", "w") as archive:
            for number, pixels in enumerate(pictures):
                data = encoded(pixels)
                header = tarfile.TarInfo(f"{10 * part + number}.png")
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
    return str(folder)


def test_killed_and_started_again_on_two_then_one(shards: str, tmp_path: Path) -> None:
    """From the checkpoint on, all is as in a run on one process that nothing happened to."""
    file, out = tmp_path / "some.ckpt", tmp_path / "out.json"
    codes, _ = run(shards, out, [f"killed={file}"], 2)
    assert all(codes)
    assert not out.exists()
    again = launch(shards, out, [f"again={file}"], 2)["again"]
    parts = train_all(shards, [f"resume={file}", "plain"])
    assert len(again["losses"]) == KILL - STOP
    losses = parts["plain"]["losses"][:STOP] + again["losses"] + parts["resume"]["losses"]
    assert_same_training({**parts["resume"], "losses": losses}, parts["plain"])

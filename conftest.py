"""What every test leaves as it found it, no network for any of them, and a command line run in this process."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

#: The guard against sockets: imported here, and by its name in every process that a test starts.
_GUARD = str(Path(__file__).parent / "tests" / "support" / "offline")
sys.path.insert(0, _GUARD)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_GUARD, os.environ.get("PYTHONPATH"))))
import sitecustomize as offline  # noqa: E402

offline.install()
# ``datasets`` counts its uses by a request of its own.
os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"


@pytest.fixture(scope="session", autouse=True)
def _tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The copies that ``datasets`` makes of Parquet files go to a folder of the tests; read when it is imported."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module", autouse=True)
def _settled_objects() -> None:
    """The garbage collector passes over what is alive when a file of tests begins.

    The modules and caches of a long session are millions of objects. A full collection visits each of them, and some
    tests, and code that they run, ask for many.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Training flushes denormals for the whole process; hypothesis, for one, cannot draw floats then."""
    yield
    import torch

    torch.set_flush_denormal(False)


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def gmvq(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """``gmvq(*argv)`` in this process, with the commands of gmvq_bench, installed or not."""
    from gmvq.cli.main import main
    from gmvq_bench.commands import COMMANDS

    def run(*argv: object) -> Result:
        capsys.readouterr()
        code = main([str(part) for part in argv], more=COMMANDS)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run

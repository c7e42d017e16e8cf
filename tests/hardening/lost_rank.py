"""``gmvq`` of which one process kills itself in one phase: for ``test_lost_rank.py``, and by hand.

python tests/hardening/lost_rank.py PHASE RANK fit ...

PHASE is start, step, validation or checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from gmvq.cli.main import main
from gmvq.training.callbacks import AtomicCheckpointIO, LastCheckpoint
from gmvq.training.module import TokenizerModule


def killed_in(owner: Any, name: str, after: int) -> None:
    """Make the process die at the beginning of a method, the time after so many."""
    own, calls = getattr(owner, name), [0]

    def method(self: Any, *args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, *args, **options)

    setattr(owner, name, method)


if __name__ == "__main__":
    phase, rank = sys.argv[1], sys.argv[2]
    if os.environ.get("LOCAL_RANK", "0") == rank:
        if phase == "start":
            killed_in(TokenizerModule, "__init__", 0)
        if phase == "step":
            killed_in(TokenizerModule, "training_step", 2)
        if phase == "validation":
            killed_in(TokenizerModule, "validation_step", 1)
        if phase == "checkpoint":
            owner, name = (
                (AtomicCheckpointIO, "save_checkpoint") if rank == "0" else (LastCheckpoint, "_must_stop")
            )
            # Rank 0 has finished the checkpoint of step 2 when the others end step 3, not when they end step 2.
            killed_in(owner, name, 1 if rank == "0" else 4)
    sys.exit(main(sys.argv[3:]))

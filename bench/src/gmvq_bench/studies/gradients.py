"""The error of the gradient estimators, with and without the aggregated KL (``gradients.study``): five minutes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import torch

from gmvq.files import write_json

from ..gradients.study import OBJECTIVES, run_study
from ..results import environment
from .records import study_parser


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser(
        "gradients", "Gumbel-softmax against the exact gradient.", list(OBJECTIVES), range(3)
    )
    options = parser.parse_args(list(argv))
    torch.set_num_threads(1)
    study = run_study(options.seeds, steps=options.steps or 600, objectives=options.methods)
    head = {"kind": "gmvq gradients", "command": shlex.join(["gmvq", "study", "gradients", *argv])}
    write_json(options.json, {**head, "environment": environment(torch.device("cpu")), **study})
    return 0

"""Two checkpoints compared, down to the last bit."""

from __future__ import annotations

from typing import Any

import torch


def assert_equal_trees(one: Any, other: Any, path: str = "") -> None:
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal_trees(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_equal_trees(mine, theirs, f"{path}[{number}]")
    else:
        assert one == other, path

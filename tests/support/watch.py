"""Watch what an operation allocates: the largest tensor that any operator in it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.untyped_storage().nbytes() // value.element_size())
        return out


def largest_allocation(function: Callable[[], Any]) -> int:
    """Largest number of values in the storage of any tensor made while ``function`` runs, backward included."""
    with _Largest() as mode, torch.autograd.set_multithreading_enabled(False):
        function()
    return mode.numel

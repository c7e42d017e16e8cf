"""The most probable codes, as operators for whoever looks at operators, and does not trace into a search's loops.

Not elsewhere: the first call of an operator imports the compiler, two seconds and 150 MB.
"""

# pyright: reportUnknownMemberType=false, reportPrivateUsage=false

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..search import best_code, best_codes


class Support(NamedTuple):
    """The codes that the posterior of each row lives on: the k most probable ones, or all, and then k is 0 here.

    Attributes:
        logits: of the k codes, falling, (N, k), without gradient.
        codes: (N, k), int64.
        indices: the most probable code, (N,), int64; the lowest of equals, which need not be among ``codes`` where
            more than k are equal.
    """

    logits: Tensor
    codes: Tensor
    indices: Tensor

    @property
    def on_all_codes(self) -> bool:
        """Whether the posterior lives on all K codes."""
        return self.codes.shape[1] == 0


@torch.no_grad()
def find_support(query: Tensor, codebook: Tensor, bias: Tensor, k: int | None) -> Support:
    """Search the k most probable codes of every row, or for None the most probable one; as ``mixture_sample``."""
    if k is None:
        indices = most_probable_codes(query, codebook, bias)
        return Support(query.new_empty(len(query), 0), indices.new_empty(len(query), 0), indices)
    if torch.compiler.is_exporting():
        logits = torch.addmm(bias, query, codebook.T)
        return Support(*logits.topk(k, -1), logits.argmax(-1))
    search = search_op if _operators_are_seen() else best_codes
    return Support(*search(query, codebook, bias, k))


def most_probable_codes(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    """arg max_c of the logits, (N,), int64, ties to the lowest code: the ``indices`` of ``mixture_sample``, alone.

    A code is a function of its row alone (``functional.search``); not in an exported program, whose logits round.
    """
    query, codebook, bias = query.detach(), codebook.detach(), bias.detach()
    if torch.compiler.is_exporting():
        return torch.addmm(bias, query, codebook.T).argmax(-1)
    if _operators_are_seen():
        return search_one(query, codebook, bias)
    return best_code(query, codebook, bias)[1]


def _operators_are_seen() -> bool:
    """Whether code is compiled, or runs in a mode that counts, fakes or records operators."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


@torch.library.custom_op("gmvq::best_codes", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def search_op(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """``best_codes``."""
    return best_codes(query, codebook, bias, k)


@search_op.register_fake
def _(query: Tensor, codebook: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    count = query.shape[0]
    indices = query.new_empty(count, k, dtype=torch.int64)
    return query.new_empty(count, k), indices, query.new_empty(count, dtype=torch.int64)


@torch.library.custom_op("gmvq::search_one", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def search_one(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    """``best_code``."""
    return best_code(query, codebook, bias)[1]


@search_one.register_fake
def _(query: Tensor, codebook: Tensor, bias: Tensor) -> Tensor:
    return query.new_empty(query.shape[0], dtype=torch.int64)

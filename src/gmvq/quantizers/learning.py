r"""How the mixture follows the latents: the M-step of its parameters, and births of codes that nothing uses.

The mixture has closed-form maximisers given the assignments, so no learning rate, optimizer or unit of a loss enters:

.. math::
    \mu_c \leftarrow \frac{t \mu_c + \sum_{n \in c} z_n}{t + n_c}, \qquad
    \frac1w \leftarrow (1 - a) \frac1w + a \, \overline{|z - \mu_c|^2} / d

t is the weight of the past, ``MEMORY`` batches of the mean code's share, so this is the incremental EM of Neal and
Hinton (1998) with forgetting. The codewords have the gradient of the reconstruction on top.

A *birth* moves a code without responsibility to a latent. In the bound it changes no other term, as its weight is zero
everywhere, and where it lands it can only raise it: the split step of split-and-merge EM (Ueda et al., 2000), with the
merge for free.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .evidence import Moments
from .start import MIN_ERROR, RATE

if TYPE_CHECKING:
    from .state import MixtureState

#: Weight of the past in the codewords, in batches.
MEMORY = 10.0
#: A code is dead below this part of the mean share.
DEAD = 0.1
#: Least 1/w of a codebook without spread.
_TINY = 1e-30


@torch.no_grad()
def learn(layer: MixtureState, moments: Moments, share: Tensor, own: Tensor) -> None:
    """One M-step of ``layer`` on the pooled moments of a batch, from the running ``share``, (K,), that it had then.

    Nothing where the batch was all masked or held NaN, which is not looked for on a GPU, or where ``own``, 0-d, is
    false: other weights were copied in since.
    """
    whole = (moments.sums.sum() + moments.errors.sum()).isfinite()
    moments = Moments(*(torch.where(whole, part, 0.0) for part in moments))
    occupied = ((moments.total > 0) & own).to(moments.total.dtype)
    total = moments.total.clamp_min(1.0)
    error = moments.errors / total
    error = error if layer.precision.per_feature else error.mean(0, keepdim=True)
    past = (-layer.log_precision).exp().to(error)
    # By hand: ``var`` over the first axis takes ten times as long.
    least = MIN_ERROR * (layer.codebook - layer.codebook.mean(0)).square().mean()
    error = past.lerp(error, RATE * occupied).maximum(least.clamp_min(_TINY))
    layer.log_precision.copy_(-error.log())
    past = MEMORY * layer.memory * total / layer.codebook_size
    weight = occupied * moments.counts / (past + moments.counts)
    mean = moments.sums / moments.counts.clamp_min(1.0)[:, None]
    layer.codebook.lerp_(mean.to(layer.codebook), weight.to(layer.codebook)[:, None])
    # DistributedDataParallel copies in the buffers of rank 0, which may have learned from this batch already.
    layer.share.copy_(torch.where(own, share, layer.share))
    layer.share.lerp_((moments.counts / total).to(layer.share), (RATE * occupied).to(layer.share))
    if layer.births:
        _give_birth(layer, moments.candidates, occupied > 0)
    if layer.frozen is not None:
        layer.codebook.copy_(layer._held(layer.codebook))
    if torch.compiler.is_compiling():
        for value in (layer.codebook, layer.log_precision):
            value.copy_(_kept(value))


@torch.library.custom_op("gmvq::kept", mutates_args=())
def _kept(value: Tensor) -> Tensor:
    """A copy that a compiled backward cannot compute again: it would start from parameters that have moved since."""
    return value.clone()


@_kept.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)


def _give_birth(layer: MixtureState, candidates: Tensor, occupied: Tensor) -> None:
    """Move dead codes, in their order, to the candidates, without a look at the device."""
    dead = layer.share < DEAD / layer.codebook_size
    if layer.frozen is not None:
        dead = dead & layer.frozen[:, 0].isnan()
    order = dead.cumsum(0) - 1
    born = dead & (order < len(candidates)) & occupied
    places = candidates.index_select(0, order.clamp(0, len(candidates) - 1)).to(layer.codebook)
    layer.codebook.copy_(torch.where(born[:, None], places, layer.codebook))
    layer.share.masked_fill_(born, 1.0 / layer.codebook_size)


def in_backward() -> bool:
    """Whether autograd is running a backward pass: a forward then is activation checkpointing's repetition."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1

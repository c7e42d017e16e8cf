r"""The hot operation of training: a sample from the mixture posterior and its statistics, in three implementations.

With query v = w z (N, D), codebook mu (K, D), bias b = log pi - 1/2 sum_d w_d mu_d^2 (K) and a per-code number
``extra`` e (K), it computes from the logits l = v mu^T + b:

.. math:: q = \mathrm{softmax}_c(l), \quad r = \text{estimator}(l, \tau, \lambda g), \quad
          m_n = \sum_c r_{nc} \mu_c, \quad
          \sum_c r_{nc} e_c, \quad H(q_n), \quad \sum_n \text{present}_n q_{nc}, \quad \arg\max_c l_{nc}

* ``reference``: dense autograd, the definition; keeps about ten N x K tensors;
* ``chunked``: row blocks that fit the cache, nothing of size N x K kept, recomputation in backward; any device;
* ``triton``: fused GPU kernels each way, nothing of size N x K in memory.

Gradients are of first order; only the reference can be differentiated twice.

``support`` = k is another variational family, not another implementation: a posterior on the k most probable codes
(``truncated``).
"""

from __future__ import annotations

from .codes import Support, find_support, most_probable_codes
from .dispatch import BACKENDS, Backend, choose_backend, mixture_sample
from .reference import MixtureSample

__all__ = [
    "BACKENDS",
    "Backend",
    "MixtureSample",
    "Support",
    "choose_backend",
    "find_support",
    "mixture_sample",
    "most_probable_codes",
]

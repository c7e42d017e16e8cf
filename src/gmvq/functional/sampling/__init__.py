r"""The hot operation of training: a sample from the mixture posterior and its statistics, in two implementations.

With query v = w z (N, D), codebook mu (K, D), bias b = log pi - 1/2 sum_d w_d mu_d^2 (K) and a per-code number
``extra`` e (K), it computes from the logits l = v mu^T + b:

.. math:: q = \mathrm{softmax}_c(l), \quad r = \text{estimator}(l, \tau, \lambda g), \quad
          m_n = \sum_c r_{nc} \mu_c, \quad
          \sum_c r_{nc} e_c, \quad H(q_n), \quad \sum_n \text{present}_n q_{nc}, \quad \arg\max_c l_{nc}

* ``reference``: plain autograd, the definition; on all K codes it keeps about ten N x K tensors, so the layer calls it
  in blocks of rows;
* ``truncated``: a posterior on the k most probable codes, in O(N k D) after the search.
"""

from __future__ import annotations

from .codes import Support, find_support, most_probable_codes
from .dispatch import mixture_sample
from .reference import MixtureSample

__all__ = [
    "MixtureSample",
    "Support",
    "find_support",
    "mixture_sample",
    "most_probable_codes",
]
